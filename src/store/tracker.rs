//! The board tables: the built-in tracker's items, numbered transitions and comments.
//!
//! Owns what an outside tracker would own. Invariants: every state an item ever had is a transition with a rising number
//! (a number starts at most one life of a task); a comment exists once per key. Refuses to give a state a meaning.

use orch_domain::names::{RepoName, TaskKey};
use orch_domain::time::Timestamp;
use rusqlite::{Connection, Row};
use serde::Serialize;
use serde_json::Value;

use crate::Store;
use crate::error::StoreError;
use crate::row::{all, execute, first, get, get_json_opt, get_parsed, get_time, json};
use crate::writer::{Tx, Urgency};

/// An item to put on the board.
#[derive(Clone, Debug, PartialEq)]
pub struct NewBoardItem {
    /// Its id, minted by the caller.
    pub id: String,
    /// Its human key; unique.
    pub key: TaskKey,
    /// One line; untrusted.
    pub title: String,
    /// The description; untrusted.
    pub body: String,
    /// The repository.
    pub repo: RepoName,
    /// Its first state.
    pub state: String,
    /// Higher goes first.
    pub priority: i32,
    /// Whatever else belongs to it: dependencies, agent, pipeline.
    pub extra: Value,
    /// Who puts it there.
    pub by: String,
}

/// An item as it is now.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct BoardItem {
    /// Its id.
    pub id: String,
    /// Its human key.
    pub key: TaskKey,
    /// One line; untrusted.
    pub title: String,
    /// The description; untrusted.
    pub body: String,
    /// The repository.
    pub repo: RepoName,
    /// Its state.
    pub state: String,
    /// Higher goes first.
    pub priority: i32,
    /// Whatever else belongs to it.
    pub extra: Value,
    /// When it was put there.
    pub created: Timestamp,
    /// Its last change.
    pub updated: Timestamp,
}

/// One move of an item.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct BoardTransition {
    /// Rising over the whole board.
    pub id: i64,
    /// The item.
    pub item: String,
    /// From where; `None`: it was put there.
    pub from: Option<String>,
    /// To where.
    pub to: String,
    /// Who moved it.
    pub by: String,
    /// When.
    pub at: Timestamp,
}

/// One comment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct BoardComment {
    /// Its key: once per item.
    pub key: String,
    /// The text.
    pub text: String,
    /// When.
    pub at: Timestamp,
}

/// What came of a move.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Moved {
    /// It moved; the transition's number.
    Moved(i64),
    /// It was there already: no transition.
    AlreadyThere,
    /// It is not where the caller thought: left alone.
    Elsewhere {
        /// Where it is.
        state: String,
    },
}

impl Store {
    /// Puts an item on the board; its first state is a transition, whose number is told. An existing key is `Refused`.
    pub async fn tracker_add_item(&self, item: NewBoardItem, now: Timestamp) -> Result<i64, StoreError> {
        self.write(Urgency::Ordinary, move |tx| {
            let sql =
                "INSERT INTO board_items (id, key, title, body, repo, state, priority, extra, created_at, updated_at)
                       VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?9)";
            let (key, repo) = (item.key.as_str(), item.repo.as_str());
            let row =
                (&item.id, key, &item.title, &item.body, repo, &item.state, item.priority, json(&item.extra), now.0);
            execute(tx.conn, sql, row)?;
            transition(tx, &item.id, None, &item.state, &item.by, now)
        })
        .await
    }

    /// Gives an item other words: title, body, repository, priority and extra. Its id, key and state stay.
    pub async fn tracker_revise(&self, item: NewBoardItem, now: Timestamp) -> Result<(), StoreError> {
        self.write(Urgency::Ordinary, move |tx| {
            let sql =
                "UPDATE board_items SET title = ?2, body = ?3, repo = ?4, priority = ?5, extra = ?6, updated_at = ?7
                       WHERE id = ?1";
            let repo = item.repo.as_str();
            let row = (&item.id, &item.title, &item.body, repo, item.priority, json(&item.extra), now.0);
            match execute(tx.conn, sql, row)? {
                0 => Err(StoreError::NotFound { what: "board item", id: item.id.clone() }),
                _ => Ok(()),
            }
        })
        .await
    }

    /// Moves an item; with `expected`, only from there.
    pub async fn tracker_move(
        &self,
        item: &str,
        to: &str,
        by: &str,
        expected: Option<&str>,
        now: Timestamp,
    ) -> Result<Moved, StoreError> {
        let (item, to, by) = (item.to_owned(), to.to_owned(), by.to_owned());
        let expected = expected.map(str::to_owned);
        self.write(Urgency::Needed, move |tx| {
            let current = find(tx.conn, &item)?
                .ok_or_else(|| StoreError::NotFound { what: "board item", id: item.clone() })?
                .state;
            if current == to {
                return Ok(Moved::AlreadyThere);
            }
            if expected.as_ref().is_some_and(|expected| *expected != current) {
                return Ok(Moved::Elsewhere { state: current });
            }
            execute(tx.conn, "UPDATE board_items SET state = ?2, updated_at = ?3 WHERE id = ?1", (&item, &to, now.0))?;
            Ok(Moved::Moved(transition(tx, &item, Some(&current), &to, &by, now)?))
        })
        .await
    }

    /// Transitions after a number, oldest first.
    pub async fn tracker_transitions_after(&self, after: i64, limit: u32) -> Result<Vec<BoardTransition>, StoreError> {
        self.read(move |conn| {
            let sql = "SELECT * FROM board_transitions WHERE id > ?1 ORDER BY id LIMIT ?2";
            all(conn, sql, (after, limit), board_transition)
        })
        .await
    }

    /// One item's transitions, oldest first.
    pub async fn tracker_history(&self, item: &str) -> Result<Vec<BoardTransition>, StoreError> {
        let item = item.to_owned();
        self.read(move |conn| {
            all(conn, "SELECT * FROM board_transitions WHERE item = ?1 ORDER BY id", [item], board_transition)
        })
        .await
    }

    /// One item by id.
    pub async fn tracker_item(&self, item: &str) -> Result<Option<BoardItem>, StoreError> {
        let item = item.to_owned();
        self.read(move |conn| find(conn, &item)).await
    }

    /// One item by its human key.
    pub async fn tracker_item_by_key(&self, key: &TaskKey) -> Result<Option<BoardItem>, StoreError> {
        let key = key.clone();
        self.read(move |conn| first(conn, "SELECT * FROM board_items WHERE key = ?1", [key.as_str()], board_item)).await
    }

    /// All items, by priority, then age.
    pub async fn tracker_items(&self) -> Result<Vec<BoardItem>, StoreError> {
        self.read(|conn| all(conn, "SELECT * FROM board_items ORDER BY priority DESC, created_at, id", [], board_item))
            .await
    }

    /// Adds a comment, once per (item, key): `false` means that it was there.
    pub async fn tracker_comment(&self, item: &str, key: &str, text: &str, now: Timestamp) -> Result<bool, StoreError> {
        let (item, key, text) = (item.to_owned(), key.to_owned(), text.to_owned());
        self.write(Urgency::Needed, move |tx| {
            let sql = "INSERT INTO board_comments (item, key, text, at) VALUES (?1, ?2, ?3, ?4)
                       ON CONFLICT (item, key) DO NOTHING";
            Ok(execute(tx.conn, sql, (&item, &key, &text, now.0))? == 1)
        })
        .await
    }

    /// An item's comments, oldest first.
    pub async fn tracker_comments(&self, item: &str) -> Result<Vec<BoardComment>, StoreError> {
        let item = item.to_owned();
        self.read(move |conn| {
            all(conn, "SELECT * FROM board_comments WHERE item = ?1 ORDER BY id", [item], |row| {
                Ok(BoardComment { key: get(row, "key")?, text: get(row, "text")?, at: get_time(row, "at")? })
            })
        })
        .await
    }
}

fn transition(
    tx: &Tx<'_>,
    item: &str,
    from: Option<&str>,
    to: &str,
    by: &str,
    now: Timestamp,
) -> Result<i64, StoreError> {
    let sql = "INSERT INTO board_transitions (item, from_state, to_state, by, at) VALUES (?1, ?2, ?3, ?4, ?5)";
    execute(tx.conn, sql, (item, from, to, by, now.0))?;
    Ok(tx.conn.last_insert_rowid())
}

fn find(conn: &Connection, item: &str) -> Result<Option<BoardItem>, StoreError> {
    first(conn, "SELECT * FROM board_items WHERE id = ?1", [item], board_item)
}

fn board_item(row: &Row<'_>) -> Result<BoardItem, StoreError> {
    Ok(BoardItem {
        id: get(row, "id")?,
        key: get_parsed(row, "key")?,
        title: get(row, "title")?,
        body: get(row, "body")?,
        repo: get_parsed(row, "repo")?,
        state: get(row, "state")?,
        priority: get(row, "priority")?,
        extra: get_json_opt(row, "extra")?.unwrap_or_default(),
        created: get_time(row, "created_at")?,
        updated: get_time(row, "updated_at")?,
    })
}

fn board_transition(row: &Row<'_>) -> Result<BoardTransition, StoreError> {
    Ok(BoardTransition {
        id: get(row, "id")?,
        item: get(row, "item")?,
        from: get(row, "from_state")?,
        to: get(row, "to_state")?,
        by: get(row, "by")?,
        at: get_time(row, "at")?,
    })
}
