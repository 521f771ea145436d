//! When to stop.
//!
//! Counts requests to stop: the first begins to drain, the second ends the wait. Signals are one source,
//! a [`Trigger`] another, so that tests and embedding programs need no signals.

use std::io;
use std::sync::Arc;

use tokio::sync::watch;

/// Says when the server should stop.
#[derive(Clone, Debug)]
pub struct Shutdown {
    asked: watch::Receiver<usize>,
    // Keeps the channel open where nobody holds a trigger.
    _sender: Arc<watch::Sender<usize>>,
}

/// Asks the server to stop.
#[derive(Clone, Debug)]
pub struct Trigger {
    sender: Arc<watch::Sender<usize>>,
}

impl Trigger {
    /// Asks once more.
    pub fn stop(&self) {
        self.sender.send_modify(|asked| *asked += 1);
    }
}

impl Shutdown {
    /// A trigger and what it pulls.
    pub fn manual() -> (Trigger, Shutdown) {
        let (sender, asked) = watch::channel(0);
        let sender = Arc::new(sender);
        (Trigger { sender: Arc::clone(&sender) }, Shutdown { asked, _sender: sender })
    }

    /// Stops on SIGTERM and SIGINT (Ctrl-C elsewhere). Must be called inside a tokio runtime.
    ///
    /// # Errors
    /// The signal handlers cannot be installed.
    pub fn on_signals() -> io::Result<Shutdown> {
        let (trigger, shutdown) = Self::manual();
        #[cfg(unix)]
        {
            use tokio::signal::unix::{SignalKind, signal};
            let mut interrupt = signal(SignalKind::interrupt())?;
            let mut terminate = signal(SignalKind::terminate())?;
            tokio::spawn(async move {
                loop {
                    tokio::select! {
                        _ = interrupt.recv() => trigger.stop(),
                        _ = terminate.recv() => trigger.stop(),
                    }
                }
            });
        }
        #[cfg(not(unix))]
        tokio::spawn(async move {
            while tokio::signal::ctrl_c().await.is_ok() {
                trigger.stop();
            }
        });
        Ok(shutdown)
    }

    /// Waits until it was asked `times` times.
    pub(crate) async fn asked(&mut self, times: usize) {
        // The sender lives as long as `self`, so this cannot fail.
        let _ = self.asked.wait_for(|asked| *asked >= times).await;
    }
}
