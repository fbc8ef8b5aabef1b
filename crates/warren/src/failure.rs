//! From errors to exit codes.

use std::fmt;
use std::process::ExitCode;

use config::ConfigError;
use mgmt::{ClientError, Failure, Reason};

/// The command line asks for something that cannot be meant.
#[derive(Debug)]
pub(crate) struct Usage(pub(crate) String);

impl fmt::Display for Usage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Usage {}

/// 2 for what the operator wrote, on the command line or in the configuration; 1 for the rest.
pub(crate) fn exit_code(error: &anyhow::Error) -> ExitCode {
    ExitCode::from(if error.chain().any(is_of_the_operators_making) { 2 } else { 1 })
}

/// The error and what caused it. Some errors name their cause themselves: nothing is said twice.
pub(crate) fn in_one_line(error: &anyhow::Error) -> String {
    let mut line = String::new();
    for cause in error.chain().map(ToString::to_string) {
        if line.is_empty() {
            line = cause;
        } else if !line.contains(&cause) {
            line = format!("{line}: {cause}");
        }
    }
    line.replace('\n', " ")
}

fn is_of_the_operators_making(error: &(dyn std::error::Error + 'static)) -> bool {
    let refusal = match error.downcast_ref() {
        Some(ClientError::Refused(failure)) => Some(failure),
        _ => error.downcast_ref::<Failure>(),
    };
    error.is::<Usage>()
        || error.is::<ConfigError>()
        || refusal.is_some_and(|failure| matches!(failure.reason, Reason::Invalid | Reason::Config))
}

#[cfg(test)]
mod tests {
    use anyhow::Context;

    use super::*;

    fn code(error: impl Into<anyhow::Error>) -> String {
        format!("{:?}", exit_code(&error.into()))
    }

    #[test]
    fn an_error_is_one_line_and_says_nothing_twice() {
        let error = anyhow::anyhow!("disk\nfull").context("a: cannot write (disk\nfull)");
        assert_eq!(in_one_line(&error), "a: cannot write (disk full)");

        let error = anyhow::anyhow!("disk full").context("cannot write").context("a");
        assert_eq!(in_one_line(&error), "a: cannot write: disk full");
    }

    #[test]
    fn what_the_operator_wrote_wrong_is_two_and_the_rest_one() {
        let two = format!("{:?}", ExitCode::from(2));
        let one = format!("{:?}", ExitCode::from(1));

        assert_eq!(code(Usage("no".into())), two);
        assert_eq!(code(Failure::invalid("no")), two);
        assert_eq!(code(ClientError::Refused(Failure::config("no"))), two);
        assert_eq!(code(ClientError::Refused(Failure::not_found("no"))), one);
        assert_eq!(code(Failure::internal("no")), one);
        assert_eq!(code(std::io::Error::other("no")), one);
        let inner: Result<(), _> = Err(Failure::invalid("no"));
        assert_eq!(code(inner.context("outer").expect_err("it failed")), two);
    }
}
