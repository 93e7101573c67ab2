//! Notifiers: how people are told. `log` is the embedded default; others are ports to the outside.

use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;

use crate::ports::{Notice, Notifier, Urgency};

/// Writes notices to the log.
#[derive(Clone, Copy, Debug, Default)]
pub struct LogNotifier;

#[async_trait]
impl Notifier for LogNotifier {
    async fn notify(&self, notice: &Notice) -> Result<(), String> {
        match notice.urgency {
            Urgency::NeedsYou => tracing::warn!(notice.key = %notice.key, "{}: {}", notice.title, notice.body),
            Urgency::Info => tracing::info!(notice.key = %notice.key, "{}: {}", notice.title, notice.body),
        }
        Ok(())
    }
}

/// Keeps notices in memory, and can be told to be away: the fake of this port.
#[derive(Clone, Debug, Default)]
pub struct FakeNotifier {
    inner: Arc<Mutex<Kept>>,
}

#[derive(Debug, Default)]
struct Kept {
    notices: Vec<Notice>,
    away: bool,
}

impl FakeNotifier {
    /// From now on every notice is refused, or taken again.
    pub fn set_away(&self, away: bool) {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner).away = away;
    }

    /// What was taken so far.
    #[must_use]
    pub fn notices(&self) -> Vec<Notice> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner).notices.clone()
    }
}

#[async_trait]
impl Notifier for FakeNotifier {
    async fn notify(&self, notice: &Notice) -> Result<(), String> {
        let mut kept = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.away {
            return Err("the receiver is away".to_owned());
        }
        if !kept.notices.iter().any(|n| n.key == notice.key) {
            kept.notices.push(notice.clone());
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_repeated_notice_is_kept_once_and_none_while_away() {
        let fake = FakeNotifier::default();
        let notice = Notice { key: "k".into(), urgency: Urgency::Info, title: "t".into(), body: String::new() };
        fake.set_away(true);
        assert!(fake.notify(&notice).await.is_err());
        fake.set_away(false);
        fake.notify(&notice).await.expect("taken");
        fake.notify(&notice).await.expect("taken");
        assert_eq!(fake.notices().len(), 1);
        LogNotifier.notify(&notice).await.expect("logged");
    }
}
