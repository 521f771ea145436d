//! Download progress on standard error: a bar on a terminal, one line otherwise.

use std::io::IsTerminal;
use std::sync::{Mutex, PoisonError};

use foretoken_model::reference::Progress;
use indicatif::{ProgressBar, ProgressStyle};

const WITH_TOTAL: &str = "{msg} [{bar:30}] {bytes}/{total_bytes} {bytes_per_sec} {eta}";
const WITHOUT_TOTAL: &str = "{spinner} {msg} {bytes} {bytes_per_sec}";

/// Shows one download at a time.
#[derive(Default)]
pub(crate) struct Bar {
    current: Mutex<Option<ProgressBar>>,
}

impl Bar {
    fn replace(&self, bar: Option<ProgressBar>) {
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(old) = std::mem::replace(&mut *current, bar) {
            old.finish_and_clear();
        }
    }
}

impl Progress for Bar {
    fn start(&self, what: &str, total: Option<u64>) {
        if !std::io::stderr().is_terminal() {
            eprintln!("fetching {what}");
            return;
        }
        let (bar, template) = match total {
            Some(total) => (ProgressBar::new(total), WITH_TOTAL),
            None => (ProgressBar::new_spinner(), WITHOUT_TOTAL),
        };
        let style = ProgressStyle::with_template(template).expect("the template is well-formed");
        self.replace(Some(bar.with_style(style).with_message(what.to_owned())));
    }

    fn at(&self, bytes: u64) {
        if let Some(bar) = &*self.current.lock().unwrap_or_else(PoisonError::into_inner) {
            bar.set_position(bytes);
        }
    }

    fn finish(&self) {
        self.replace(None);
    }
}
