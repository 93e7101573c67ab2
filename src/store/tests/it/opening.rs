//! Opening: modes, the instance lock, migrations over old rows, and what is refused is kept byte for byte.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use orch_domain::ids::{Epoch, Generation, Seq, Version};
use orch_domain::journal::Entry;
use orch_domain::task::Status;
use orch_store::{DB_FILE, OpenError, Store, StoreError, Subject};
use tempfile::TempDir;

use crate::support::*;

/// A database as the first migration left it, with rows in it; never edited again.
const OLD: &str = include_str!("../fixtures/schema-1.sql");

fn db(dir: &TempDir) -> PathBuf {
    config(dir).dir.join(DB_FILE)
}

fn mode(path: &std::path::Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o777
}

#[test]
fn folder_and_files_are_the_owners_alone() {
    let (dir, store) = fresh();
    assert_eq!(mode(&config(&dir).dir), 0o700);
    for file in [DB_FILE, "orch.db-wal", "orch.lock", "ballast"] {
        assert_eq!(mode(&config(&dir).dir.join(file)), 0o600, "{file}");
    }
    drop(store);
}

#[test]
fn a_second_instance_is_told_who_has_the_folder() {
    let (dir, store) = fresh();
    let refused = Store::open(&config(&dir)).map(drop).expect_err("one instance per folder");
    let text = refused.to_string();
    assert!(
        matches!(refused, OpenError::InUse { .. }) && text.contains(&format!("pid {}", std::process::id())),
        "{text}"
    );
    drop(store);
    Store::open(&config(&dir)).expect("free again as soon as the first is gone");
}

#[tokio::test]
async fn looking_needs_no_lock_and_changes_nothing() {
    let (dir, store) = fresh();
    owned(&store, "task1", "ORC-1").await;
    let looking = Store::read_only(&config(&dir).dir).unwrap();
    assert_eq!(looking.live_tasks().await.unwrap().len(), 1);
    let refused = looking.append(Subject::default(), vec![Entry::new("x", "y")], at(1)).await;
    assert_eq!(refused, Err(StoreError::ReadOnly));
    let nothing = Store::read_only(&dir.path().join("elsewhere")).map(drop);
    assert!(matches!(nothing, Err(OpenError::Missing { .. })));
}

#[test]
fn a_folder_that_cannot_be_made_is_named() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("data"), "a file in the way").unwrap();
    let refused = Store::open(&config(&dir)).map(drop).expect_err("no folder");
    let text = refused.to_string();
    assert!(matches!(refused, OpenError::Unwritable { .. }) && text.contains("choose another data folder"), "{text}");
}

#[tokio::test]
async fn what_was_written_is_there_after_a_reopen() {
    let (dir, store) = fresh();
    let owned = owned(&store, "task1", "ORC-1").await;
    store.commit(forward(&owned.task, owned.version, owned.epoch)).await.unwrap();
    drop(store);
    let store = Store::open(&config(&dir)).unwrap();
    let again = store.own_task(&owned.task.id, at(9)).await.unwrap();
    assert_eq!((again.version, again.epoch), (Version(2), Epoch(2)));
    assert_eq!(*store.subscribe().borrow(), Seq(2));
}

#[tokio::test]
async fn a_closed_store_is_in_its_file_alone_also_beside_one_who_looks() {
    let (dir, store) = fresh();
    owned(&store, "task1", "ORC-1").await;
    let looking = Store::read_only(&config(&dir).dir).unwrap();
    assert_eq!(looking.live_tasks().await.unwrap().len(), 1);
    store.close();
    let log = fs::metadata(config(&dir).dir.join("orch.db-wal")).map_or(0, |meta| meta.len());
    assert_eq!(log, 0, "the log is folded in");
    let copy = TempDir::new().unwrap();
    fs::copy(db(&dir), copy.path().join(DB_FILE)).unwrap();
    let copied = Store::open(&orch_store::StoreConfig { dir: copy.path().to_owned(), ..config(&dir) }).unwrap();
    assert_eq!(copied.live_tasks().await.unwrap(), looking.live_tasks().await.unwrap());
}

#[tokio::test]
async fn an_old_database_is_backed_up_and_migrated_with_its_rows() {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir(config(&dir).dir).unwrap();
    rusqlite::Connection::open(db(&dir)).unwrap().execute_batch(OLD).unwrap();
    let store = Store::open(&config(&dir)).unwrap();
    let live = store.live_tasks().await.unwrap();
    assert_eq!(live.len(), 1);
    assert_eq!((live[0].task.key.as_str(), live[0].task.generation), ("OLD-1", Generation(2)));
    assert_eq!(store.tasks_by_key(&"OLD-1".parse().unwrap()).await.unwrap().len(), 2);
    let owned = store.own_task(&live[0].task.id, at(5)).await.unwrap();
    store.commit(forward(&owned.task, owned.version, owned.epoch)).await.unwrap();
    assert_eq!(store.leases().await.unwrap(), []);
    drop(store);

    let backups: Vec<_> = fs::read_dir(config(&dir).dir.join("backups")).unwrap().map(|f| f.unwrap().path()).collect();
    assert_eq!(backups.len(), 1, "{backups:?}");
    let kept = rusqlite::Connection::open(&backups[0]).unwrap();
    let version: u32 = kept.query_row("PRAGMA user_version", [], |row| row.get(0)).unwrap();
    assert_eq!(version, 1, "the backup is of before");
}

#[tokio::test]
async fn lean_commits_move_words_and_pins_out_of_the_row_and_chain_the_journal() {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir(config(&dir).dir).unwrap();
    let old = rusqlite::Connection::open(db(&dir)).unwrap();
    old.execute_batch(OLD).unwrap();
    old.execute_batch(
        "INSERT INTO journal (at, task, kind, text) VALUES (7, NULL, 'note', 'of nobody'), (8, 'old2', 'note', 'second'),
           (8, 'old1', 'note', 'of the other life'), (9, 'old2', 'note', 'third');
         INSERT INTO tasks SELECT 'bad1', 'BAD-1', 'BAD-1', 1, repo, NULL, NULL, 'orch/BAD-1/1', 'orch/BAD-1/1', stage,
           'running', state, 'no json {', 3, 2, 0, 0, 5, 6, NULL, NULL, NULL, NULL, NULL FROM tasks WHERE id = 'old2';",
    )
    .unwrap();
    let field = |name: &str| -> String {
        let sql = format!("SELECT json_extract(body, '$.{name}') FROM tasks WHERE id = 'old2'");
        old.query_row(&sql, [], |row| row.get(0)).unwrap()
    };
    let (title, words, pipeline) = (field("title"), field("body"), field("pipeline.name"));
    let texts: Vec<String> = {
        let mut found = old.prepare("SELECT text FROM journal WHERE task = 'old2' ORDER BY seq").unwrap();
        found.query_map([], |row| row.get(0)).unwrap().map(Result::unwrap).collect()
    };
    drop(old);

    let store = Store::open(&config(&dir)).unwrap();
    let live = store.live_tasks().await.unwrap();
    let old2 = live.iter().find(|s| s.task.id.as_str() == "old2").unwrap();
    assert_eq!((&old2.task.title, &old2.task.body, &old2.task.pipeline.name), (&title, &words, &pipeline));
    let lives = store.tasks_by_key(&old2.task.key).await.unwrap();
    assert!(std::sync::Arc::ptr_eq(&lives[0].task.pipeline, &lives[1].task.pipeline), "equal pins are held once");
    let said = |records: Vec<orch_domain::journal::Record>| -> Vec<String> {
        records.into_iter().map(|r| r.entry.text).collect()
    };
    assert_eq!(said(store.journal(&old2.task.id, Seq(0), 100).await.unwrap()), texts);
    assert_eq!(said(store.journal_tail(&old2.task.id, 2).await.unwrap()), ["second", "third"]);
    let second = store.journal_tail(&old2.task.id, 2).await.unwrap()[0].seq;
    assert_eq!(said(store.journal(&old2.task.id, second, 100).await.unwrap()), ["third"]);

    let bad = live.iter().find(|s| s.task.id.as_str() == "bad1").unwrap();
    assert_eq!(bad.task.status(), Status::Blocked, "{:?}", bad.task.state);
    drop(store);
    let file = rusqlite::Connection::open(db(&dir)).unwrap();
    let kept: String = file.query_row("SELECT body FROM tasks WHERE id = 'bad1'", [], |row| row.get(0)).unwrap();
    assert_eq!(kept, "no json {", "what cannot be read is not touched");
    let slim: i64 = file
        .query_row("SELECT count(*) FROM tasks WHERE json_valid(body) AND body LIKE '%pipeline%'", [], |row| row.get(0))
        .unwrap();
    assert_eq!(slim, 0, "no row carries its pins");
}

#[test]
fn a_newer_file_is_refused_and_left_as_it_is() {
    let (dir, store) = fresh();
    drop(store);
    rusqlite::Connection::open(db(&dir)).unwrap().pragma_update(None, "user_version", 4_711).unwrap();
    let before = fs::read(db(&dir)).unwrap();
    let refused = Store::open(&config(&dir)).map(drop).expect_err("newer");
    assert!(matches!(refused, OpenError::Newer { found: 4_711, .. }), "{refused}");
    assert_eq!(fs::read(db(&dir)).unwrap(), before);
}

#[test]
fn not_even_the_log_of_a_refused_file_is_folded_in() {
    let (dir, store) = fresh();
    drop(store);
    let wal = config(&dir).dir.join("orch.db-wal");
    let conn = rusqlite::Connection::open(db(&dir)).unwrap();
    conn.set_db_config(rusqlite::config::DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true).unwrap();
    conn.pragma_update(None, "user_version", 4_711).unwrap();
    drop(conn);
    let before = (fs::read(db(&dir)).unwrap(), fs::read(&wal).unwrap());
    assert!(!before.1.is_empty(), "the newer number is in the log only");
    let refused = Store::open(&config(&dir)).map(drop).expect_err("newer");
    assert!(matches!(refused, OpenError::Newer { .. }), "{refused}");
    assert_eq!((fs::read(db(&dir)).unwrap(), fs::read(&wal).unwrap()), before);
}

#[test]
fn a_file_migrated_by_another_text_is_refused() {
    let (dir, store) = fresh();
    drop(store);
    rusqlite::Connection::open(db(&dir))
        .unwrap()
        .execute("UPDATE migrations SET sha256 = 'x' WHERE number = 2", [])
        .unwrap();
    let refused = Store::open(&config(&dir)).map(drop).expect_err("foreign");
    assert!(matches!(refused, OpenError::ForeignMigration { number: 2, .. }), "{refused}");
}

#[tokio::test]
async fn a_damaged_file_is_refused_kept_and_replaced_by_a_backup() {
    let (dir, store) = fresh();
    for n in 0..50 {
        owned(&store, &format!("task{n}"), &format!("ORC-{n}")).await;
    }
    let backup = dir.path().join("good.db");
    store.backup(backup.clone()).await.unwrap();
    drop(store);
    let mut bytes = fs::read(db(&dir)).unwrap();
    let page = 4_096;
    // The header of a page in the middle: what a flipped sector does to a tree.
    let middle = bytes.len() / page / 2 * page;
    for byte in &mut bytes[middle..middle + 64] {
        *byte ^= 0xff;
    }
    fs::write(db(&dir), &bytes).unwrap();
    let refused = Store::open(&config(&dir)).map(drop).expect_err("damaged");
    let text = refused.to_string();
    assert!(matches!(refused, OpenError::Corrupt { .. }) && text.contains("restore"), "{text}");
    assert_eq!(fs::read(db(&dir)).unwrap(), bytes, "kept as it is");

    let aside = Store::restore(&backup, &config(&dir).dir, at(9)).unwrap().expect("the damaged one is kept aside");
    assert_eq!(fs::read(aside).unwrap(), bytes);
    let store = Store::open(&config(&dir)).unwrap();
    assert_eq!(store.live_tasks().await.unwrap().len(), 50);
    assert_eq!(store.integrity_check().await.unwrap(), None);
}

#[test]
fn something_that_is_no_database_is_refused_and_kept() {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir(config(&dir).dir).unwrap();
    let text = "this is not a database, it is somebody's notes".repeat(100);
    fs::write(db(&dir), &text).unwrap();
    let refused = Store::open(&config(&dir)).map(drop).expect_err("no database");
    assert!(matches!(refused, OpenError::Corrupt { .. }), "{refused}");
    assert_eq!(fs::read_to_string(db(&dir)).unwrap(), text);
}

#[tokio::test]
async fn a_backup_is_complete_verified_and_restorable() {
    let (dir, store) = fresh();
    let first = owned(&store, "task1", "ORC-1").await;
    let to = dir.path().join("backups").join("one.db");
    let report = store.backup(to.clone()).await.unwrap();
    assert_eq!((report.schema, report.seq), (8, Seq(1)));
    assert_eq!(mode(&to), 0o600);
    assert!(matches!(store.backup(to.clone()).await, Err(StoreError::Refused { .. })), "never over an existing file");
    store.commit(forward(&first.task, first.version, first.epoch)).await.unwrap();

    let in_use = Store::restore(&to, &config(&dir).dir, at(9)).expect_err("an instance runs");
    assert!(matches!(in_use, OpenError::InUse { .. }));
    drop(store);
    Store::restore(&to, &config(&dir).dir, at(9)).unwrap();
    let store = Store::open(&config(&dir)).unwrap();
    let row = store.load_task(&first.task.id).await.unwrap().unwrap();
    assert_eq!((row.version, row.task), (Version(1), first.task), "as it was when the backup was made");
    let junk = dir.path().join("junk.db");
    fs::write(&junk, "junk").unwrap();
    assert!(matches!(Store::restore(&junk, &dir.path().join("other"), at(9)), Err(OpenError::BadBackup { .. })));
}
