//! What an engine wants done where it may take its time.

use std::any::Any;
use std::fmt;

/// A step that may wait for something outside, such as a smart card that signs. It takes along
/// what it needs; the engine goes on without it.
pub struct Work(Box<dyn FnOnce() -> Done + Send>);

/// What came of it: only the engine knows what that is.
pub struct Done(Box<dyn Any + Send>);

impl Work {
    /// Packs a step.
    pub fn new<T: Send + 'static>(step: impl FnOnce() -> T + Send + 'static) -> Self {
        Self(Box::new(move || Done(Box::new(step()))))
    }

    /// Does it; may block.
    #[must_use]
    pub fn run(self) -> Done {
        self.0()
    }
}

impl Done {
    /// The result, if it is one of these.
    #[must_use]
    pub fn take<T: 'static>(self) -> Option<T> {
        self.0.downcast().ok().map(|done| *done)
    }
}

impl fmt::Debug for Work {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Work(..)")
    }
}

impl fmt::Debug for Done {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Done(..)")
    }
}
