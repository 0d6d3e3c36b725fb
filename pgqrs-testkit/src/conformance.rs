//! The contract of [`Store`], case by case.
//!
//! [`conformance!`](crate::conformance!) makes one test of every case below; a case is named after
//! the clause that it proves (`v4_an_expired_lease_is_ready_to_the_microsecond`).
//! [`cases`](fn@cases) lists them as values. Cases inject every time they need, so none of them
//! waits.
//!
//! A case that needs an optional part which the store lacks prints `SKIP` and the part. All other
//! cases must pass.

#![allow(clippy::unwrap_used, reason = "a case fails by panicking")]

use std::{fmt, sync::Arc, time::Duration};

use futures::future::BoxFuture;
use pgqrs::{Capabilities, Store, Support};

mod archive;
mod builders;
mod contention;
mod list;
mod messages;
mod queues;
mod scene;
mod workers;

/// How long a case may take. None waits on purpose; this ends those that hang.
const PATIENCE: Duration = Duration::from_secs(180);

/// One side of one clause, as a test.
#[derive(Clone, Copy)]
pub struct Case {
    /// The module it stands in, for instance `messages`.
    pub module: &'static str,
    /// Its name, which is that of its test.
    pub name: &'static str,
    /// The optional parts that it needs.
    pub needs: &'static [Part],
    /// Runs it on a store whose database is empty; panics if the store breaks the contract.
    pub run: for<'a> fn(&'a Arc<dyn Store>) -> BoxFuture<'a, ()>,
}

/// An optional part of a store.
#[derive(Clone, Copy)]
pub struct Part {
    /// The field of [`Capabilities`] that tells of it.
    pub name: &'static str,
    /// Reads that field.
    pub support: fn(Capabilities) -> Support,
}

impl Case {
    /// The clause that the case proves, for instance `V3`; `None` for what the methods of
    /// [`Store`] promise beside the numbered clauses.
    pub fn clause(&self) -> Option<String> {
        let (clause, _) = self.name.split_once('_')?;
        clause.ends_with(|last: char| last.is_ascii_digit()).then(|| clause.to_uppercase())
    }

    /// The first optional part that the case needs and `store` lacks.
    pub fn lacks(&self, store: &dyn Store) -> Option<Part> {
        let capabilities = store.capabilities();
        let missing = |part: &&Part| (part.support)(capabilities) == Support::Missing;
        self.needs.iter().find(missing).copied()
    }
}

impl fmt::Debug for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}::{}", self.module, self.name)
    }
}

impl fmt::Debug for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name)
    }
}

/// Runs one case, on a runtime of its own, on what `fresh` makes: the body of every test that
/// [`conformance!`](crate::conformance!) makes.
///
/// # Panics
/// If the store breaks the contract.
pub fn check<S, G, F>(case: Case, fresh: impl Fn() -> F)
where
    S: Store + 'static,
    F: Future<Output = (S, G)>,
{
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(4).enable_all().build().unwrap();
    runtime.block_on(async {
        let (store, guard) = fresh().await;
        let store: Arc<dyn Store> = Arc::new(store);
        if let Some(part) = case.lacks(&*store) {
            println!("SKIP {case:?}: the store has no {part:?}");
            return;
        }
        store.install().await.unwrap();
        let ended = tokio::time::timeout(PATIENCE, (case.run)(&store)).await;
        assert!(ended.is_ok(), "{case:?} hangs");
        drop(store);
        drop(guard);
    });
}

/// Makes one test of every conformance case, in the modules `queues`, `messages`, `archive`,
/// `workers`, `builders` and `contention`.
///
/// It takes the path of an async function that returns a store on an empty database, and a guard
/// that is dropped when the case has ended.
///
/// ```
/// async fn fresh() -> (pgqrs::MemoryStore, ()) {
///     (pgqrs::MemoryStore::new(), ())
/// }
///
/// pgqrs_testkit::conformance!(fresh);
/// # fn main() {}
/// ```
#[macro_export]
macro_rules! conformance {
    ($fresh:path) => {
        $crate::for_each_case! { [$crate::conformance_tests] $fresh }
    };
}

/// Makes the tests: what [`conformance!`](crate::conformance!) does with the list.
#[doc(hidden)]
#[macro_export]
macro_rules! conformance_tests {
    ([$fresh:path] $($module:ident { $($name:ident $([$($part:ident)+])?,)* })*) => { $(
        mod $module {
            #[allow(unused_imports)]
            use super::*;

            $(
                #[test]
                fn $name() {
                    $crate::conformance::check($crate::case!($module $name $($($part)+)?), $fresh);
                }
            )*
        }
    )* };
}

/// One [`Case`] of the list.
#[doc(hidden)]
#[macro_export]
macro_rules! case {
    ($module:ident $name:ident $($part:ident)*) => {
        $crate::conformance::Case {
            module: stringify!($module),
            name: stringify!($name),
            needs: const {
                &[$($crate::conformance::Part {
                    name: stringify!($part),
                    support: |capabilities| capabilities.$part,
                }),*]
            },
            run: |store| ::std::boxed::Box::pin($crate::conformance::cases::$module::$name(store)),
        }
    };
}

macro_rules! list_cases {
    ([] $($module:ident { $($name:ident $([$($part:ident)+])?,)* })*) => {
        /// The cases as functions, each with the clause that it proves.
        pub mod cases {
            $(
                #[doc = concat!("The cases of `", stringify!($module), "`.")]
                pub mod $module {
                    pub use super::super::$module::{$($name),*};
                }
            )*
        }

        /// All cases, in the order of the list.
        pub fn cases() -> Vec<Case> {
            vec![$($($crate::case!($module $name $($($part)+)?)),*),*]
        }
    };
}

crate::for_each_case! { [list_cases] }

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::cases;

    /// E2 is for a test that kills processes, V7 for one that reads query plans.
    #[test]
    fn every_clause_has_a_case() {
        let clauses = "E1 E3 E4 E5 V1 V2 V3 V4 V5 V6 S1 S2 S3 S4 S5 S6 S7 A1 A2 A3 A4 \
                       W1 W2 W3 W4 W5 W6 Q1 Q2 Q3";
        let proven: BTreeSet<_> = cases().iter().filter_map(|case| case.clause()).collect();
        assert_eq!(proven, clauses.split_whitespace().map(String::from).collect());
    }

    #[test]
    fn names_are_unique() {
        let names: BTreeSet<_> = cases().iter().map(|case| case.name).collect();
        assert_eq!(names.len(), cases().len());
    }
}
