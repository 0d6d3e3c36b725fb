//! Statements on a connection of sqlx. Parameters and answers are written and read by
//! tokio-postgres, so that every statement is the same text with the same types.

/// The adaptor of one version of sqlx, which is the crate `$sqlx`; `$sql` gives the version's form
/// of a statement that has been assembled.
macro_rules! adaptor {
    ($module:ident, $feature:literal, $sqlx:ident, |$text:ident| $sql:expr) => {
        #[cfg(feature = $feature)]
        pub(crate) mod $module {
            use pgqrs::{Error, Result};
            use tokio_postgres::types::{self, FromSql};
            use $sqlx::{
                Encode, Postgres, Row as _, Type, ValueRef,
                encode::IsNull,
                error::BoxDynError,
                postgres::{PgArgumentBuffer, PgConnection, PgRow, PgTypeInfo, types::Oid},
            };

            use crate::{
                connection::{Connection, Record},
                error::from_server,
                pool::{Params, Typed},
            };

            impl Connection for &mut PgConnection {
                type Row = PgRow;

                async fn query(&mut self, $text: &str, params: &Params<'_>) -> Result<Vec<PgRow>> {
                    let mut query = $sqlx::query::<Postgres>($sql).persistent(false);
                    for value in params {
                        query = query.bind(Encoded::new(*value)?);
                    }
                    query.fetch_all(&mut **self).await.map_err(from_sqlx)
                }
            }

            impl Record for PgRow {
                fn value<'r, T: FromSql<'r>>(&'r self, column: &str) -> Result<T> {
                    let value = self.try_get_raw(column).map_err(from_sqlx)?;
                    let oid = value.type_info().oid().map(|oid| oid.0);
                    let known = oid.and_then(types::Type::from_oid);
                    let decoded = match known.filter(T::accepts) {
                        None => Err(format!("column {column} has an unexpected type").into()),
                        Some(kind) if value.is_null() => T::from_sql_null(&kind),
                        Some(kind) => value.as_bytes().and_then(|bytes| T::from_sql(&kind, bytes)),
                    };
                    decoded.map_err(unreadable)
                }
            }

            /// A parameter in Postgres' binary format; `None` is NULL.
            struct Encoded {
                oid: u32,
                bytes: Option<Vec<u8>>,
            }

            impl Encoded {
                fn new(value: &dyn Typed) -> Result<Self> {
                    let (kind, mut bytes) = (value.pg_type(), Default::default());
                    let null = value.to_sql_checked(&kind, &mut bytes).map_err(unreadable)?;
                    let bytes = matches!(null, types::IsNull::No).then(|| bytes.to_vec());
                    Ok(Self { oid: kind.oid(), bytes })
                }
            }

            impl Type<Postgres> for Encoded {
                fn type_info() -> PgTypeInfo {
                    PgTypeInfo::with_oid(Oid(types::Type::TEXT.oid()))
                }
            }

            impl Encode<'_, Postgres> for Encoded {
                fn encode_by_ref(
                    &self,
                    buffer: &mut PgArgumentBuffer,
                ) -> Result<IsNull, BoxDynError> {
                    let Some(bytes) = &self.bytes else { return Ok(IsNull::Yes) };
                    buffer.extend_from_slice(bytes);
                    Ok(IsNull::No)
                }

                fn produces(&self) -> Option<PgTypeInfo> {
                    Some(PgTypeInfo::with_oid(Oid(self.oid)))
                }
            }

            /// The SQLSTATE behind an error, if the server gave one.
            pub(crate) fn sqlstate(error: &$sqlx::Error) -> Option<String> {
                Some(error.as_database_error()?.code()?.into_owned())
            }

            fn from_sqlx(error: $sqlx::Error) -> Error {
                use $sqlx::Error as Sqlx;
                let reason = error.to_string();
                match (&error, sqlstate(&error)) {
                    (Sqlx::Database(db), Some(code)) => {
                        let message = db.message().to_owned();
                        from_server(&code, &message, error.into())
                    }
                    (Sqlx::Io(_) | Sqlx::Tls(_) | Sqlx::Protocol(_) | Sqlx::WorkerCrashed, _) => {
                        Error::Unavailable { reason, source: Some(error.into()) }
                    }
                    _ => Error::Backend { reason, source: Some(error.into()) },
                }
            }

            fn unreadable(source: BoxDynError) -> Error {
                Error::Backend { reason: source.to_string(), source: Some(source) }
            }
        }
    };
}

adaptor!(v0_8, "sqlx-0_8", sqlx_0_8, |sql| sql);
adaptor!(v0_9, "sqlx-0_9", sqlx_0_9, |sql| sqlx_0_9::AssertSqlSafe(sql.to_owned()));
