//! Looks now and then whether the web configuration file or a certificate has changed. On a thread
//! of its own, as a disk may take its time and a request must not wait for it.

use std::io;
use std::sync::Arc;
use std::sync::mpsc::{RecvTimeoutError, SyncSender, sync_channel};
use std::time::Duration;

use super::access::Access;

/// Time between two looks.
const INTERVAL: Duration = Duration::from_secs(5);

/// The thread that looks; it ends when this is dropped.
#[derive(Debug)]
pub(super) struct Renewal(SyncSender<()>);

impl Renewal {
    /// Starts it, if there is a file to look at.
    pub(super) fn start(access: &Arc<Access>) -> io::Result<Option<Self>> {
        if access.path().is_none() {
            return Ok(None);
        }
        let (wake, woken) = sync_channel(1);
        let access = Arc::clone(access);
        let look = move || {
            let mut told = None;
            loop {
                let is_asked = match woken.recv_timeout(INTERVAL) {
                    Ok(()) => true,
                    Err(RecvTimeoutError::Timeout) => false,
                    Err(RecvTimeoutError::Disconnected) => return,
                };
                access.read_again(is_asked, &mut told);
            }
        };
        std::thread::Builder::new().name("web-config".to_owned()).spawn(look)?;
        Ok(Some(Self(wake)))
    }

    /// Has the file read again soon.
    pub(super) fn wake(&self) {
        // One that waits already is as good.
        let _ = self.0.try_send(());
    }
}
