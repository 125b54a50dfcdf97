//! How a fault of the program itself is told: in one line, as every failure.

use std::panic::{AssertUnwindSafe, Location, catch_unwind};
use std::sync::{Mutex, PoisonError};

use tracing::{Level, enabled, error};

use super::failure::Failure;

/// What the last panic said, and where.
static LAST: Mutex<Option<String>> = Mutex::new(None);

/// Has every panic told in one line: in the log if there is one, else by how the command ends. With
/// `RUST_BACKTRACE` the way to it follows.
pub(super) fn tell_in_one_line() {
    let usual = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        let line = line(panic.payload_as_str(), panic.location());
        if enabled!(Level::ERROR) {
            let thread = std::thread::current().name().unwrap_or_default().to_owned();
            error!(thread, "internal error: {line}");
        }
        *LAST.lock().unwrap_or_else(PoisonError::into_inner) = Some(line);
        if std::env::var_os("RUST_BACKTRACE").is_some_and(|value| value != "0") {
            usual(panic);
        }
    }));
}

fn line(text: Option<&str>, place: Option<&Location<'_>>) -> String {
    let text = text.unwrap_or("panic");
    place.map_or_else(|| text.to_owned(), |place| format!("{text} ({place})"))
}

/// Does what was asked for; a panic is a failure like others.
pub(super) fn caught(work: impl FnOnce() -> Result<(), Failure>) -> Result<(), Failure> {
    catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|_| {
        let last = LAST.lock().unwrap_or_else(PoisonError::into_inner).take();
        Err(Failure::internal(last.as_deref().unwrap_or("panic")))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_is_a_failure_with_its_words_and_its_place() {
        tell_in_one_line();
        let failure = caught(|| panic!("planted\nin two lines")).unwrap_err();
        let told = format!("{failure:?}");
        assert!(told.contains("code: 70"), "{told}");
        assert!(told.contains("internal error: planted in two lines (src/cli/crash.rs:"), "{told}");
        assert!(caught(|| Ok(())).is_ok());
    }
}
