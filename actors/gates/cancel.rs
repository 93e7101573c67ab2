//! How a gate run hears that it is to end: a flag that travels with the side task, so that no signature carries it.
//!
//! Owns the flag and the wait for it. The pool raises it; [`requested`] is awaited beside the work. Outside of the pool
//! it is never raised. Refuses to end anything by force: who does not listen is dropped by the pool after a grace.

use std::future::Future;

use tokio::sync::watch;

tokio::task_local! {
    static CANCEL: watch::Receiver<Option<String>>;
}

/// Waits until the gate run is to end; tells why. Never returns outside of a pool.
pub async fn requested() -> String {
    let Ok(mut flag) = CANCEL.try_with(Clone::clone) else { return std::future::pending().await };
    match flag.wait_for(Option::is_some).await {
        Ok(why) => why.clone().unwrap_or_default(),
        // The pool's end of the flag is gone: so is the pool, and nobody can take the result.
        Err(_) => "the gate pool has ended".to_owned(),
    }
}

/// Runs `work` so that [`requested`] inside it hears the flag.
pub(super) async fn heard_by<T>(flag: watch::Receiver<Option<String>>, work: impl Future<Output = T>) -> T {
    CANCEL.scope(flag, work).await
}
