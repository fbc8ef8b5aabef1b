/// Defines a code point that survives values we do not know.
///
/// ```
/// wire::code_point! {
///     /// The first five bits of every packet.
///     pub struct Opcode(u8) {
///         P_ACK_V1 = 5,
///     }
/// }
/// assert_eq!(format!("{:?} {:?}", Opcode(5), Opcode(31)), "P_ACK_V1 Opcode(0x1f)");
/// ```
#[macro_export]
macro_rules! code_point {
    ($(#[$meta:meta])* $vis:vis struct $name:ident($int:ty) {
        $($(#[$m:meta])* $konst:ident = $value:expr,)*
    }) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Eq, Hash, Ord, PartialEq, PartialOrd)]
        $vis struct $name($vis $int);

        #[allow(missing_docs)]
        impl $name {
            $($(#[$m])* $vis const $konst: Self = Self($value);)*
        }

        impl ::std::fmt::Debug for $name {
            fn fmt(&self, f: &mut ::std::fmt::Formatter<'_>) -> ::std::fmt::Result {
                match *self {
                    $(Self::$konst => f.write_str(stringify!($konst)),)*
                    Self(other) => write!(f, concat!(stringify!($name), "({:#x})"), other),
                }
            }
        }
    };
}
