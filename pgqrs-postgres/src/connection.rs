//! Where statements run: on a connection of ours, or on one of the caller's.

use pgqrs::Result;
use tokio_postgres::{
    GenericClient, Row,
    types::{FromSql, ToSql},
};

use crate::{
    error::from_driver,
    pool::{Params, Session, only},
};

/// Runs statements one after the other.
pub trait Connection: Send {
    /// What it answers with.
    type Row: Record;

    /// Runs a statement; every parameter is sent with its type.
    fn query(
        &mut self,
        sql: &str,
        params: &Params<'_>,
    ) -> impl Future<Output = Result<Vec<Self::Row>>> + Send;

    /// The same for a statement that answers with one row.
    fn query_one(
        &mut self,
        sql: &str,
        params: &Params<'_>,
    ) -> impl Future<Output = Result<Self::Row>> + Send {
        async move { only(self.query(sql, params).await?) }
    }
}

/// A row of an answer.
pub trait Record: Send + Sync {
    /// The value of a column.
    fn value<'r, T: FromSql<'r>>(&'r self, column: &str) -> Result<T>;
}

impl Connection for Session<'_> {
    type Row = Row;

    async fn query(&mut self, sql: &str, params: &Params<'_>) -> Result<Vec<Row>> {
        Session::query(self, sql, params).await
    }
}

/// Unnamed statements: a pooler may stand between.
impl<C: GenericClient + Sync> Connection for &C {
    type Row = Row;

    async fn query(&mut self, sql: &str, params: &Params<'_>) -> Result<Vec<Row>> {
        let typed = params.iter().map(|value| (*value as &(dyn ToSql + Sync), value.pg_type()));
        self.query_typed(sql, &typed.collect::<Vec<_>>()).await.map_err(from_driver)
    }
}

impl Record for Row {
    fn value<'r, T: FromSql<'r>>(&'r self, column: &str) -> Result<T> {
        self.try_get(column).map_err(from_driver)
    }
}
