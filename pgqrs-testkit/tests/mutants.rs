//! Every mutant is caught: by the case named here, and by the model. The correct store passes both.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{cell::Cell, panic, sync::Arc, sync::Once};

use pgqrs::{MemoryStore, Store};
use pgqrs_testkit::{
    conformance::{Case, cases},
    model,
    mutants::{Mutant, plant},
};

macro_rules! caught {
    ($($name:ident: $mutant:ident by $case:ident;)*) => {
        $(
            #[test]
            fn $name() {
                assert_caught(Mutant::$mutant, stringify!($case));
            }
        )*

        #[test]
        fn every_mutant_has_a_test() {
            assert_eq!(Mutant::ALL.to_vec(), [$(Mutant::$mutant),*]);
        }
    };
}

caught! {
    a_batch_half_written: BatchHalfWritten by e1_a_batch_is_all_or_nothing;
    early_delayed_delivery: DeliveredEarly
        by e3_a_delayed_message_is_not_claimable_a_microsecond_early;
    a_claim_above_the_limit: LimitExceeded by v1_a_claim_returns_at_most_its_limit;
    lease_overlap: LeasesOverlap by v3_a_leased_message_is_not_claimed_again;
    an_expired_lease_never_redelivered: NeverRedelivered
        by v4_a_message_comes_back_for_every_attempt;
    sub_second_expiry_truncated: ExpiryTruncated by v4_a_lease_of_a_millisecond_ends_to_the_microsecond;
    order_ignored: OrderIgnored by v5_a_batch_comes_in_claim_order;
    priority_ignored: PriorityIgnored by v5_an_urgent_latecomer_passes;
    an_extension_ignored: ExtensionIgnored by v6_extend_counts_from_now;
    a_stale_settle_accepted: StaleSettled by s1_a_message_claimed_again_is_lost_to_its_first_holder;
    an_archived_message_also_live: ArchivedStaysLive by s2_a_message_is_live_or_archived_or_gone;
    a_repeated_archive_refused: RepeatedArchiveRefused by s3_a_repeated_archive_is_ok;
    a_delete_that_archives: DeletedIsArchived by s4_a_deleted_message_is_gone_for_good;
    an_attempt_lost_on_release: ReleaseCounts by s5_a_release_gives_the_attempt_back;
    a_failure_at_the_maximum_retried: RetriedBeyondMaximum
        by s6_a_failure_at_the_maximum_is_a_dead_letter;
    an_error_not_cut: ErrorNotCut by s6_an_error_is_cut_at_8_kib;
    retention_too_eager: RetentionTooEager by a2_reads_hide_what_is_past_retention;
    a_redrive_that_keeps_the_old_receipt: RedriveKeepsReceipt
        by a3_old_receipts_stay_dead_after_a_redrive;
    a_purge_of_too_much: PurgeTooMuch by purge_removes_what_it_names;
    a_suspended_worker_served: SuspendedServed by w2_a_suspended_worker_claims_nothing;
    a_zombie_served: ZombieServed by w5_a_zombies_calls_name_its_successor;
    a_replacement_that_gives_attempts_back: ReplacementForgives
        by w6_what_gives_an_attempt_back_and_what_counts_it;
    a_paused_queue_that_serves: PausedServes
        by q1_a_paused_queue_takes_messages_and_hands_out_none;
}

#[test]
fn the_correct_store_passes_the_same() {
    let failed: Vec<_> = cases().into_iter().filter(|case| fails(*case, correct())).collect();
    assert!(failed.is_empty(), "{failed:?}");
    assert!(model_fails(correct()).is_none());
}

fn assert_caught(mutant: Mutant, name: &str) {
    let case = cases().into_iter().find(|case| case.name == name);
    let case = case.unwrap_or_else(|| panic!("there is no case {name}"));
    assert!(!fails(case, correct()), "{name} fails on the correct store");
    assert!(fails(case, plant(mutant, correct())), "{name} does not catch {mutant:?}");
    let failure = model_fails(plant(mutant, correct()));
    println!("{}", failure.unwrap_or_else(|| panic!("the model does not catch {mutant:?}")));
}

fn correct() -> Arc<dyn Store> {
    Arc::new(MemoryStore::new())
}

/// Whether the case fails, without its panic in the output.
fn fails(case: Case, store: Arc<dyn Store>) -> bool {
    silence_panics_of_cases();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    IN_CASE.set(true);
    let outcome = runtime.block_on(async {
        let run = async move { (case.run)(&store).await };
        tokio::spawn(run).await
    });
    IN_CASE.set(false);
    outcome.is_err()
}

fn model_fails(store: Arc<dyn Store>) -> Option<model::Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let config = model::Config { programs: 256, steps: 50..=80, seed: 1 };
    runtime.block_on(model::find_failure(store, config))
}

thread_local! {
    /// Whether this thread, on which all of a case's tasks run, is running a case.
    static IN_CASE: Cell<bool> = const { Cell::new(false) };
}

fn silence_panics_of_cases() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let loud = panic::take_hook();
        panic::set_hook(Box::new(move |panic| {
            if !IN_CASE.get() {
                loud(panic);
            }
        }));
    });
}
