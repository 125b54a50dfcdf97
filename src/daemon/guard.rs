//! What a fault of the program itself may cost: a panic.
//!
//! Where it can be told what it costs (a save, a scan, a page, a record), it is caught there and told.
//! Where the daemon would go on blind or dumb without the thread, the process ends with a line and a code
//! of its own, for whoever supervises it to start it again.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::thread::JoinHandle;

use tracing::error;

#[cfg(not(panic = "unwind"))]
compile_error!("a panic in a parser must cost that file only: build with panic = \"unwind\"");

/// Exit code of such an end, as `sysexits.h` has it.
const INTERNAL: i32 = 70;

/// Does something that may have a fault; what the panic says, if it has.
///
/// What `work` changed before it is left as it is: whoever goes on must be able to.
pub(super) fn caught<T>(work: impl FnOnce() -> T) -> Result<T, String> {
    catch_unwind(AssertUnwindSafe(work)).map_err(|panic| {
        let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
        let text = text.or_else(|| panic.downcast_ref::<String>().cloned());
        text.unwrap_or_else(|| "panic".to_owned())
    })
}

/// Starts a thread without which nobody would hear of the daemon any more: a panic in it ends the process.
pub(super) fn vital(
    name: &str,
    work: impl FnOnce() + Send + 'static,
) -> io::Result<JoinHandle<()>> {
    start(name, work, || std::process::exit(INTERNAL))
}

fn start(
    name: &str,
    work: impl FnOnce() + Send + 'static,
    end: impl FnOnce() + Send + 'static,
) -> io::Result<JoinHandle<()>> {
    let thread = name.to_owned();
    std::thread::Builder::new().name(name.to_owned()).spawn(move || {
        if let Err(panic) = caught(work) {
            error!(thread, panic, "internal error, the daemon ends");
            end();
        }
    })
}

/// Does something until it returns: after a panic, which `mend` is told, anew.
pub(super) fn again(mut work: impl FnMut(), mut mend: impl FnMut(String)) {
    while let Err(panic) = caught(&mut work) {
        mend(panic);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::channel;

    use super::*;

    #[test]
    fn a_panic_is_told_in_its_own_words() {
        assert_eq!(caught(|| 7), Ok(7));
        assert_eq!(caught(|| panic!("plain")), Err::<(), _>("plain".to_owned()));
        let number = 3;
        assert_eq!(caught(|| panic!("number {number}")), Err::<(), _>("number 3".to_owned()));
        let odd = caught(|| std::panic::panic_any(3_u8));
        assert_eq!(odd, Err::<(), _>("panic".to_owned()));
    }

    #[test]
    fn a_vital_thread_that_panics_ends_the_process_and_no_other_does() {
        let ended = |work: fn()| {
            let (sender, ends) = channel();
            let thread = start("vital", work, move || sender.send(()).unwrap()).unwrap();
            thread.join().unwrap();
            ends.try_recv().is_ok()
        };
        assert!(ended(|| panic!("planted")));
        assert!(!ended(|| {}));
    }

    #[test]
    fn work_is_done_anew_until_it_returns() {
        let (mut n_tries, mut told) = (0, Vec::new());
        let work = || {
            n_tries += 1;
            assert!(n_tries > 2, "planted {n_tries}");
        };
        again(work, |panic| told.push(panic));
        assert_eq!((n_tries, told), (3, vec!["planted 1".to_owned(), "planted 2".to_owned()]));
    }
}
