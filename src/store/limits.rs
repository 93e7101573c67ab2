//! The limits and restarts tables: what was spent per day, and how often an actor had to be restarted.
//!
//! Owns reservations: a run reserves what it may spend before it starts and settles what it did spend after it, both under
//! its run id, so that neither a crash nor a repetition counts twice. Checking against a ceiling and reserving are one
//! change. Counters survive restarts: a crash loop across processes is still a crash loop.

use orch_domain::ids::RunId;
use orch_domain::time::{Millis, Timestamp};
use rusqlite::Connection;
use serde::Serialize;

use crate::Store;
use crate::error::StoreError;
use crate::row::{execute, first, get};
use crate::writer::Urgency;

/// Tokens and money.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Spend {
    /// Tokens read and written together.
    pub tokens: u64,
    /// Millionths of a US dollar.
    pub cost_micro_usd: u64,
}

/// Most that may be spent in one scope on one day; `None`: no ceiling.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ceiling {
    /// Tokens.
    pub tokens: Option<u64>,
    /// Millionths of a US dollar.
    pub cost_micro_usd: Option<u64>,
}

/// What came of a reservation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reserve {
    /// Reserved (or was before).
    Granted,
    /// It would go over the ceiling; nothing was reserved.
    Over {
        /// What is spent and reserved already.
        spent: Spend,
    },
}

const DAY: i64 = 24 * 60 * 60 * 1_000;

impl Store {
    /// Reserves what a run may spend, on the day of `now`, if that stays within the ceiling. Repeating it is harmless.
    pub async fn reserve_spend(
        &self,
        run: &RunId,
        scope: &str,
        wanted: Spend,
        ceiling: Ceiling,
        now: Timestamp,
    ) -> Result<Reserve, StoreError> {
        let (run, scope) = (run.clone(), scope.to_owned());
        self.write(Urgency::Ordinary, move |tx| {
            let sql = "SELECT 1 AS known FROM limits WHERE run = ?1";
            if first(tx.conn, sql, [run.as_str()], |_| Ok(()))?.is_some() {
                return Ok(Reserve::Granted);
            }
            let day = now.0.div_euclid(DAY);
            let spent = spent(tx.conn, &scope, day)?;
            let over = |spent: u64, wanted: u64, most: Option<u64>| {
                most.is_some_and(|most| spent >= most || spent.saturating_add(wanted) > most)
            };
            if over(spent.tokens, wanted.tokens, ceiling.tokens)
                || over(spent.cost_micro_usd, wanted.cost_micro_usd, ceiling.cost_micro_usd)
            {
                return Ok(Reserve::Over { spent });
            }
            let sql = "INSERT INTO limits (run, scope, day, tokens, cost_micro_usd, settled)
                       VALUES (?1, ?2, ?3, ?4, ?5, 0)";
            execute(tx.conn, sql, (run.as_str(), &scope, day, stored(wanted.tokens), stored(wanted.cost_micro_usd)))?;
            Ok(Reserve::Granted)
        })
        .await
    }

    /// Replaces a run's reservation by what it spent, once; an unknown run is none of ours and changes nothing.
    pub async fn settle_spend(&self, run: &RunId, actual: Spend) -> Result<(), StoreError> {
        let run = run.clone();
        self.write(Urgency::Needed, move |tx| {
            let sql = "UPDATE limits SET tokens = ?2, cost_micro_usd = ?3, settled = 1 WHERE run = ?1 AND settled = 0";
            execute(tx.conn, sql, (run.as_str(), stored(actual.tokens), stored(actual.cost_micro_usd)))?;
            Ok(())
        })
        .await
    }

    /// What a scope has spent and reserved on the day of `now` (UTC).
    pub async fn spent(&self, scope: &str, now: Timestamp) -> Result<Spend, StoreError> {
        let scope = scope.to_owned();
        self.read(move |conn| spent(conn, &scope, now.0.div_euclid(DAY))).await
    }

    /// Notes a restart of an actor; tells how many there were within `window` before `now`, this one included.
    pub async fn note_restart(&self, name: &str, now: Timestamp, window: Millis) -> Result<u32, StoreError> {
        let name = name.to_owned();
        self.write(Urgency::Needed, move |tx| {
            let since = now.0.saturating_sub_unsigned(window.0);
            execute(tx.conn, "DELETE FROM restarts WHERE name = ?1 AND at < ?2", (&name, since))?;
            execute(tx.conn, "INSERT INTO restarts (name, at) VALUES (?1, ?2)", (&name, now.0))?;
            let sql = "SELECT count(*) AS n FROM restarts WHERE name = ?1";
            Ok(first(tx.conn, sql, [&name], |row| get(row, "n"))?.unwrap_or(1))
        })
        .await
    }

    /// Forgets an actor's restarts: a person asked for a fresh start.
    pub async fn forget_restarts(&self, name: &str) -> Result<(), StoreError> {
        let name = name.to_owned();
        self.write(Urgency::Needed, move |tx| {
            execute(tx.conn, "DELETE FROM restarts WHERE name = ?1", [&name])?;
            Ok(())
        })
        .await
    }
}

fn spent(conn: &Connection, scope: &str, day: i64) -> Result<Spend, StoreError> {
    let sql = "SELECT coalesce(sum(tokens), 0) AS tokens, coalesce(sum(cost_micro_usd), 0) AS cost FROM limits
               WHERE scope = ?1 AND day = ?2";
    let spent = first(conn, sql, (scope, day), |row| {
        Ok(Spend { tokens: get(row, "tokens")?, cost_micro_usd: get(row, "cost")? })
    })?;
    Ok(spent.unwrap_or_default())
}

/// Bounded so that a wild report can neither overflow a sum nor be refused.
fn stored(value: u64) -> u64 {
    value.min(1 << 50)
}
