//! Graceful shutdown.
//!
//! Counts shutdown requests: the first starts draining, the second ends the grace period. They come from signals
//! or from a [`Trigger`], so that tests and embedding programs need no signals.

use std::io;
use std::sync::Arc;

use tokio::sync::watch;

/// Observes shutdown requests.
#[derive(Clone, Debug)]
pub struct Shutdown {
    requested: watch::Receiver<usize>,
    // Keeps the channel open when no trigger is alive.
    _sender: Arc<watch::Sender<usize>>,
}

/// Requests shutdown.
#[derive(Clone, Debug)]
pub struct Trigger {
    sender: Arc<watch::Sender<usize>>,
}

impl Trigger {
    /// Requests shutdown once more.
    pub fn stop(&self) {
        self.sender.send_modify(|requested| *requested += 1);
    }
}

impl Shutdown {
    /// A trigger and the shutdown it controls.
    pub fn manual() -> (Trigger, Shutdown) {
        let (sender, requested) = watch::channel(0);
        let sender = Arc::new(sender);
        (Trigger { sender: Arc::clone(&sender) }, Shutdown { requested, _sender: sender })
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

    /// Waits until shutdown was requested `times` times.
    pub async fn requested(&mut self, times: usize) {
        // The sender lives as long as `self`, so this cannot fail.
        let _ = self.requested.wait_for(|requested| *requested >= times).await;
    }
}
