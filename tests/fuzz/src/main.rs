//! Runs one fuzz target: over files, or, built by `cargo xtask fuzz`, under libFuzzer.
#![cfg_attr(not(fuzzing), forbid(unsafe_code))]
#![cfg_attr(fuzzing, no_main)]

/// libFuzzer owns `main` and its arguments, so the target's name comes from the environment.
/// Without one the program prints the names of all targets, which is how xtask learns them.
#[cfg(fuzzing)]
mod guided {
    use std::sync::OnceLock;

    static SELECTED: OnceLock<fuzz::Target> = OnceLock::new();

    #[allow(clippy::print_stdout, reason = "the list is the program's output")]
    fn select() {
        let Ok(name) = std::env::var("FUZZ_TARGET") else {
            for target in fuzz::TARGETS {
                println!("{}", target.name);
            }
            std::process::exit(0);
        };
        let Some(target) = fuzz::find(&name) else {
            eprintln!("fuzz: no target `{name}`");
            std::process::exit(2);
        };
        SELECTED.set(target).expect("libFuzzer initialises once");
    }

    libfuzzer_sys::fuzz_target!(init: select(), |input: &[u8]| {
        (SELECTED.get().expect("libFuzzer initialises first").run)(input);
    });
}

#[cfg(not(fuzzing))]
fn main() -> std::process::ExitCode {
    use std::process::ExitCode;

    let mut args = std::env::args().skip(1);
    let Some(target) = args.next().and_then(|name| fuzz::find(&name)) else {
        let names: Vec<_> = fuzz::TARGETS.iter().map(|target| target.name).collect();
        eprintln!("usage: fuzz TARGET FILE...; the targets are {}", names.join(", "));
        return ExitCode::from(2);
    };
    for path in args {
        match std::fs::read(&path) {
            Ok(input) => (target.run)(&input),
            Err(error) => {
                eprintln!("fuzz: cannot read {path}: {error}");
                return ExitCode::FAILURE;
            }
        }
    }
    ExitCode::SUCCESS
}
