//! Declares tables of keys, and reads them.

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use crate::error::{ConfigError, Source};
use crate::nearest::nearest;

/// A value and where it stands in the file; `at` is `None` for a default.
#[derive(Clone, Debug)]
pub(crate) struct At<T> {
    pub(crate) value: T,
    pub(crate) at: Option<usize>,
}

/// A list that knows where each item stands.
pub(crate) type List<T> = Vec<At<T>>;

/// One key as declared.
#[derive(Debug)]
pub(crate) struct Key {
    pub(crate) name: &'static str,
    /// As TOML.
    pub(crate) default: &'static str,
    /// Empty for what has none.
    pub(crate) unit: &'static str,
    pub(crate) reason: &'static str,
    /// What the type accepts, in words.
    pub(crate) wants: fn() -> String,
}

/// One table as declared.
#[derive(Debug)]
pub(crate) struct Section {
    /// With dots, as between the brackets.
    pub(crate) path: &'static str,
    pub(crate) about: &'static str,
    pub(crate) keys: &'static [Key],
}

/// A type that a key can have.
pub(crate) trait FromToml: Sized {
    /// What is accepted, in words: "a whole number from 1 to 9".
    fn wants() -> String;

    /// Reads the value.
    fn read(value: &Spanned<DeValue<'_>>) -> Result<Self, Wrong>;
}

/// Why a value is not acceptable, and the offset of the guilty part.
#[derive(Debug)]
pub(crate) struct Wrong {
    pub(crate) at: usize,
    pub(crate) what: String,
}

/// Declares a table: a struct of [`At`] fields, its [`Section`], and `read`, which takes missing
/// keys from the declared defaults.
macro_rules! table {
    (
        [$path:literal] $about:literal
        $name:ident {
            $( $key:ident : $kind:ty = $default:literal, $unit:literal, $reason:literal; )*
        }
    ) => {
        #[derive(Clone, Debug)]
        pub(crate) struct $name {
            $( pub(crate) $key: $crate::table::At<$kind>, )*
        }

        impl $name {
            pub(crate) const SECTION: $crate::table::Section = $crate::table::Section {
                path: $path,
                about: $about,
                keys: &[$( $crate::table::Key {
                    name: stringify!($key),
                    default: $default,
                    unit: $unit,
                    reason: $reason,
                    wants: <$kind as $crate::table::FromToml>::wants,
                } ),*],
            };

            pub(crate) fn read(
                root: &toml::de::DeTable<'_>,
                source: &$crate::error::Source<'_>,
            ) -> Result<Self, $crate::error::ConfigError> {
                let table = $crate::table::find(root, $path);
                Ok(Self {
                    $(
                        $key: $crate::table::value(
                            table, source, $path, stringify!($key), $default,
                        )?,
                    )*
                })
            }
        }
    };
}
pub(crate) use table;

/// The table at `path`; [`refuse_strangers`] has made sure that nothing else is there.
pub(crate) fn find<'r, 't>(root: &'r DeTable<'t>, path: &str) -> Option<&'r DeTable<'t>> {
    path.split('.')
        .try_fold(root, |table, part| table.get(part).and_then(|next| next.get_ref().as_table()))
}

/// One key's value, or its default.
pub(crate) fn value<T: FromToml>(
    table: Option<&DeTable<'_>>,
    source: &Source<'_>,
    path: &str,
    name: &str,
    default: &str,
) -> Result<At<T>, ConfigError> {
    let Some(value) = table.and_then(|table| table.get(name)) else {
        let value = DeValue::parse(default)
            .ok()
            .and_then(|value| T::read(&value).ok())
            .expect("declared defaults are valid: the tests read every one");
        return Ok(At { value, at: None });
    };
    match T::read(value) {
        Ok(read) => Ok(At { value: read, at: Some(value.span().start) }),
        Err(wrong) => {
            Err(source.error(Some(wrong.at), Some(&format!("{path}.{name}")), wrong.what))
        }
    }
}

/// Fails at the first line that names a key or table that is not declared.
pub(crate) fn refuse_strangers(
    root: &DeTable<'_>,
    source: &Source<'_>,
    sections: &[&Section],
) -> Result<(), ConfigError> {
    let mut strangers = Vec::new();
    walk(root, "", sections, &mut strangers);
    strangers.sort_by_key(|(at, ..)| *at);
    match strangers.into_iter().next() {
        None => Ok(()),
        Some((at, key, what)) => Err(source.error(Some(at), Some(&key), what)),
    }
}

fn walk(
    table: &DeTable<'_>,
    path: &str,
    sections: &[&Section],
    strangers: &mut Vec<(usize, String, String)>,
) {
    let section = sections.iter().find(|section| section.path == path);
    for (name, value) in table {
        let at = name.span().start;
        let name = name.get_ref().as_ref();
        let full = if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") };
        if section.is_some_and(|section| section.keys.iter().any(|key| key.name == name)) {
            continue;
        }
        let is_table_name = sections
            .iter()
            .any(|section| section.path == full || section.path.starts_with(&format!("{full}.")));
        match (is_table_name, value.get_ref().as_table()) {
            (true, Some(inner)) => walk(inner, &full, sections, strangers),
            (true, None) => {
                let found = value.get_ref().type_str();
                let what = format!("this is a table, not {}; write [{full}]", article(found));
                strangers.push((at, full.escape_debug().to_string(), what));
            }
            (false, _) => {
                let what = advice(name, path, sections);
                strangers.push((at, full.escape_debug().to_string(), what));
            }
        }
    }
}

fn advice(name: &str, path: &str, sections: &[&Section]) -> String {
    let has = |section: &&&Section| section.keys.iter().any(|key| key.name == name);
    if let Some(section) = sections.iter().find(has) {
        return format!("there is no such key here; it belongs into [{}]", section.path);
    }

    let keys = sections
        .iter()
        .filter(|section| section.path == path)
        .flat_map(|section| section.keys)
        .map(|key| key.name);
    let prefix = if path.is_empty() { String::new() } else { format!("{path}.") };
    let tables = sections
        .iter()
        .filter_map(|section| section.path.strip_prefix(&prefix))
        .filter_map(|rest| rest.split('.').next());
    match nearest(name, keys.chain(tables)) {
        Some(close) => format!("there is no such key; did you mean \"{close}\"?"),
        None => "there is no such key; `warren config example` shows every key".to_owned(),
    }
}

pub(crate) fn article(kind: &str) -> String {
    match kind {
        "string" => "a text in quotes".to_owned(),
        "integer" => "a whole number".to_owned(),
        "boolean" => "true or false".to_owned(),
        "array" => "a list".to_owned(),
        "float" => "a number with a fraction".to_owned(),
        other => format!("a {other}"),
    }
}
