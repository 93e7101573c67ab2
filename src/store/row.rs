//! Rows in and out: the few helpers that every table file uses.
//!
//! Owns how stored text becomes a domain value again. Refuses to panic over a bad row: it is `Damaged`, with its name.

use std::fmt::Display;
use std::str::FromStr;

use orch_domain::time::Timestamp;
use rusqlite::types::FromSql;
use rusqlite::{Connection, Params, Row};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::error::{Db, StoreError};

/// A domain value as stored JSON.
pub(crate) fn json<T: Serialize>(value: &T) -> String {
    serde_json::to_string(value).expect("domain values serialise: no maps with non-string keys")
}

/// Stored JSON as a domain value.
pub(crate) fn read_json<T: DeserializeOwned>(what: &str, text: &str) -> Result<T, StoreError> {
    serde_json::from_str(text).map_err(|err| StoreError::Damaged { what: what.to_owned(), why: err.to_string() })
}

/// Stored text as an id, name or word.
pub(crate) fn parse<T: FromStr<Err: Display>>(what: &str, text: &str) -> Result<T, StoreError> {
    text.parse().map_err(|err: T::Err| StoreError::Damaged { what: what.to_owned(), why: err.to_string() })
}

/// One column.
pub(crate) fn get<T: FromSql>(row: &Row<'_>, column: &str) -> Result<T, StoreError> {
    row.get(column).db()
}

/// One text column, parsed.
pub(crate) fn get_parsed<T: FromStr<Err: Display>>(row: &Row<'_>, column: &str) -> Result<T, StoreError> {
    parse(column, &get::<String>(row, column)?)
}

/// One text column, parsed where it is set.
pub(crate) fn get_parsed_opt<T: FromStr<Err: Display>>(row: &Row<'_>, column: &str) -> Result<Option<T>, StoreError> {
    get::<Option<String>>(row, column)?.map(|text| parse(column, &text)).transpose()
}

/// One JSON column where it is set.
pub(crate) fn get_json_opt<T: DeserializeOwned>(row: &Row<'_>, column: &str) -> Result<Option<T>, StoreError> {
    get::<Option<String>>(row, column)?.map(|text| read_json(column, &text)).transpose()
}

/// One time column.
pub(crate) fn get_time(row: &Row<'_>, column: &str) -> Result<Timestamp, StoreError> {
    get(row, column).map(Timestamp)
}

/// One time column where it is set.
pub(crate) fn get_time_opt(row: &Row<'_>, column: &str) -> Result<Option<Timestamp>, StoreError> {
    Ok(get::<Option<i64>>(row, column)?.map(Timestamp))
}

/// All rows of a query.
pub(crate) fn all<T, P: Params>(
    conn: &Connection,
    sql: &str,
    params: P,
    mut read: impl FnMut(&Row<'_>) -> Result<T, StoreError>,
) -> Result<Vec<T>, StoreError> {
    let mut statement = conn.prepare_cached(sql).db()?;
    let mut rows = statement.query(params).db()?;
    let mut out = Vec::new();
    while let Some(row) = rows.next().db()? {
        out.push(read(row)?);
    }
    Ok(out)
}

/// All rows of a query that can be read; one that cannot is left out and logged, so that it stops nobody else.
pub(crate) fn readable<T, P: Params>(
    conn: &Connection,
    sql: &str,
    params: P,
    mut read: impl FnMut(&Row<'_>) -> Result<T, StoreError>,
) -> Result<Vec<T>, StoreError> {
    let rows = all(conn, sql, params, |row| match read(row) {
        Err(error @ StoreError::Damaged { .. }) => {
            tracing::error!(%error, "a row was left out: {error}");
            Ok(None)
        }
        other => other.map(Some),
    })?;
    Ok(rows.into_iter().flatten().collect())
}

/// The first row of a query, if any.
pub(crate) fn first<T, P: Params>(
    conn: &Connection,
    sql: &str,
    params: P,
    read: impl FnOnce(&Row<'_>) -> Result<T, StoreError>,
) -> Result<Option<T>, StoreError> {
    let mut statement = conn.prepare_cached(sql).db()?;
    let mut rows = statement.query(params).db()?;
    rows.next().db()?.map(read).transpose()
}

/// Runs one statement; tells how many rows it changed.
pub(crate) fn execute<P: Params>(conn: &Connection, sql: &str, params: P) -> Result<usize, StoreError> {
    conn.prepare_cached(sql).db()?.execute(params).db()
}
