//! Statements on a connection that only the caller can use: of another driver, in another language.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use chrono::{DateTime, Utc};
use pgqrs::{Error, Result};
use tokio_postgres::types::{FromSql, IsNull, ToSql, Type};

use crate::{
    PostgresStore,
    connection::{Connection, Record},
    pool::{Params, Typed},
};

/// A [`Transaction`](crate::Transaction) whose statements somebody else runs: poll the call that it
/// was given to, take the statement that it waits with, run that, answer, and so on until the call
/// is done. The call waits for nothing else. Clones are the same transaction.
#[derive(Debug, Clone, Default)]
pub struct Remote(Arc<Mutex<Slot>>);

/// What is under way: one of the two at most.
#[derive(Debug, Default)]
struct Slot {
    statement: Option<RemoteStatement>,
    answer: Option<RemoteAnswer>,
}

/// A statement to be run.
#[derive(Debug, Clone)]
pub struct RemoteStatement {
    sql: String,
    /// What `$1` and the next ones are set to.
    pub parameters: Vec<RemoteValue>,
    types: Vec<Type>,
}

/// A value of one of the types that statements have.
#[derive(Debug, Clone, PartialEq)]
#[allow(missing_docs, reason = "they are what they are called")]
pub enum RemoteValue {
    Null,
    Bool(bool),
    Int(i64),
    Text(String),
    Time(DateTime<Utc>),
    Bools(Vec<Option<bool>>),
    Ints(Vec<Option<i64>>),
    Texts(Vec<Option<String>>),
}

/// The rows that a statement has brought.
#[derive(Debug, Clone)]
pub struct RemoteAnswer {
    /// The names of the columns.
    pub columns: Vec<String>,
    /// A value for each column.
    pub rows: Vec<Vec<RemoteValue>>,
}

impl Remote {
    /// The statement that the call waits with.
    pub fn take_statement(&self) -> Option<RemoteStatement> {
        self.slot().statement.take()
    }

    /// Answers it. The call goes on when it is polled.
    pub fn answer(&self, answer: RemoteAnswer) {
        self.slot().answer = Some(answer);
    }

    fn slot(&self) -> MutexGuard<'_, Slot> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl RemoteStatement {
    /// The statement, with what `parameter` makes of the number of each parameter, from 1, cast to
    /// its type; `text` escapes what stands between them.
    pub fn render(
        &self,
        text: impl Fn(&str) -> String,
        parameter: impl Fn(usize) -> String,
    ) -> String {
        let mut pieces = self.sql.split('$');
        let mut rendered = text(pieces.next().unwrap_or_default());
        for piece in pieces {
            let digits = piece.bytes().take_while(u8::is_ascii_digit).count();
            let (number, rest) = piece.split_at(digits);
            let number = number.parse::<usize>().ok();
            let known = number.and_then(|n| Some((n, self.types.get(n.checked_sub(1)?)?)));
            rendered += &match known {
                Some((n, kind)) => {
                    format!("CAST({} AS {}){}", parameter(n), kind.name(), text(rest))
                }
                None => text(&format!("${piece}")),
            };
        }
        rendered
    }
}

impl PostgresStore {
    /// The schema that the store's tables are in.
    pub fn schema(&self) -> &str {
        &self.inner.schema
    }
}

impl Connection for Remote {
    type Row = RemoteRow;

    async fn query(&mut self, sql: &str, params: &Params<'_>) -> Result<Vec<RemoteRow>> {
        let parameters = params.iter().map(|param| decoded(*param)).collect::<Result<_>>()?;
        let types = params.iter().map(|param| param.pg_type()).collect();
        let statement = RemoteStatement { sql: sql.trim().to_owned(), parameters, types };
        self.slot().statement = Some(statement);
        // It is polled again when it has been answered, and never else.
        let answer = std::future::poll_fn(|_| match self.slot().answer.take() {
            Some(answer) => std::task::Poll::Ready(answer),
            None => std::task::Poll::Pending,
        });
        let RemoteAnswer { columns, rows } = answer.await;
        let columns: Arc<[String]> = columns.into();
        let row = |values: Vec<RemoteValue>| {
            let cells = values.iter().map(encoded).collect::<Result<_>>()?;
            Ok(RemoteRow { columns: columns.clone(), cells })
        };
        rows.into_iter().map(row).collect()
    }
}

/// A row of an answer, in Postgres' binary format.
#[derive(Debug)]
pub struct RemoteRow {
    columns: Arc<[String]>,
    cells: Vec<Cell>,
}

/// The value in each type that it may be read as; none is NULL.
type Cell = Vec<(Type, Vec<u8>)>;

impl Record for RemoteRow {
    fn value<'r, T: FromSql<'r>>(&'r self, column: &str) -> Result<T> {
        let place = self.columns.iter().position(|name| name == column);
        let cell = place.and_then(|place| self.cells.get(place));
        let cell = cell.ok_or_else(|| unreadable(format!("column {column} is missing").into()))?;
        if cell.is_empty() {
            return T::from_sql_null(&Type::TEXT).map_err(unreadable);
        }
        match cell.iter().find(|(kind, _)| T::accepts(kind)) {
            Some((kind, bytes)) => T::from_sql(kind, bytes).map_err(unreadable),
            None => Err(unreadable(format!("column {column} has an unexpected type").into())),
        }
    }
}

/// A parameter as a value.
fn decoded(param: &dyn Typed) -> Result<RemoteValue> {
    let (kind, mut bytes) = (param.pg_type(), Default::default());
    if matches!(param.to_sql_checked(&kind, &mut bytes).map_err(unreadable)?, IsNull::Yes) {
        return Ok(RemoteValue::Null);
    }
    fn read<'b, T: FromSql<'b>>(kind: &Type, bytes: &'b [u8]) -> Result<T> {
        T::from_sql(kind, bytes).map_err(unreadable)
    }
    fn wide<T: Into<i64>>(values: Vec<Option<T>>) -> RemoteValue {
        RemoteValue::Ints(values.into_iter().map(|value| value.map(Into::into)).collect())
    }
    Ok(match kind {
        Type::BOOL => RemoteValue::Bool(read(&kind, &bytes)?),
        Type::INT2 => RemoteValue::Int(read::<i16>(&kind, &bytes)?.into()),
        Type::INT4 => RemoteValue::Int(read::<i32>(&kind, &bytes)?.into()),
        Type::INT8 => RemoteValue::Int(read(&kind, &bytes)?),
        Type::TIMESTAMPTZ => RemoteValue::Time(read(&kind, &bytes)?),
        Type::BOOL_ARRAY => RemoteValue::Bools(read(&kind, &bytes)?),
        Type::INT2_ARRAY => wide::<i16>(read(&kind, &bytes)?),
        Type::INT4_ARRAY => wide::<i32>(read(&kind, &bytes)?),
        Type::INT8_ARRAY => wide::<i64>(read(&kind, &bytes)?),
        Type::TEXT_ARRAY => RemoteValue::Texts(read(&kind, &bytes)?),
        Type::TEXT => RemoteValue::Text(read(&kind, &bytes)?),
        kind => return Err(unreadable(format!("a parameter is a {kind}").into())),
    })
}

/// A value of an answer as a column of each type that it may stand for.
fn encoded(value: &RemoteValue) -> Result<Cell> {
    fn cell(kind: Type, value: &dyn ToSql) -> Result<(Type, Vec<u8>)> {
        let mut bytes = Default::default();
        value.to_sql_checked(&kind, &mut bytes).map_err(unreadable)?;
        Ok((kind, bytes.to_vec()))
    }
    Ok(match value {
        RemoteValue::Null => Vec::new(),
        RemoteValue::Bool(value) => vec![cell(Type::BOOL, value)?],
        RemoteValue::Text(value) => vec![cell(Type::TEXT, value)?],
        RemoteValue::Time(value) => vec![cell(Type::TIMESTAMPTZ, value)?],
        RemoteValue::Bools(values) => vec![cell(Type::BOOL_ARRAY, values)?],
        RemoteValue::Texts(values) => vec![cell(Type::TEXT_ARRAY, values)?],
        RemoteValue::Ints(values) => vec![cell(Type::INT8_ARRAY, values)?],
        RemoteValue::Int(value) => {
            let mut cells = vec![cell(Type::INT8, value)?];
            if let Ok(value) = i32::try_from(*value) {
                cells.push(cell(Type::INT4, &value)?);
            }
            if let Ok(value) = i16::try_from(*value) {
                cells.push(cell(Type::INT2, &value)?);
            }
            cells
        }
    })
}

fn unreadable(source: pgqrs::Source) -> Error {
    Error::Backend { reason: source.to_string(), source: Some(source) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_are_cast_and_the_rest_is_escaped() {
        let sql = "SELECT '50%', '$', coalesce($12, $1)".to_owned();
        let types = vec![Type::TEXT; 11].into_iter().chain([Type::INT8_ARRAY]).collect();
        let statement = RemoteStatement { sql, parameters: Vec::new(), types };
        let rendered = statement.render(|text| text.replace('%', "%%"), |n| format!("%(p{n})s"));
        let expected = "SELECT '50%%', '$', coalesce(CAST(%(p12)s AS _int8), CAST(%(p1)s AS text))";
        assert_eq!(rendered, expected);
    }

    #[test]
    fn values_are_read_as_what_they_may_stand_for() {
        let values = [RemoteValue::Int(7), RemoteValue::Null, RemoteValue::Ints(vec![Some(1)])];
        let row = RemoteRow {
            columns: ["a", "b", "c"].map(String::from).to_vec().into(),
            cells: values.iter().map(encoded).collect::<Result<_>>().unwrap(),
        };
        assert_eq!(row.value::<i32>("a").unwrap(), 7);
        assert_eq!(row.value::<i64>("a").unwrap(), 7);
        assert_eq!(row.value::<Option<i64>>("b").unwrap(), None);
        assert_eq!(row.value::<Vec<i64>>("c").unwrap(), [1]);
        assert!(row.value::<String>("a").is_err());
        assert!(row.value::<String>("d").is_err());
    }
}
