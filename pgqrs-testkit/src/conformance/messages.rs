//! Messages on their way: enqueue, visibility, settling, and the reads that show them.

mod claim;
mod enqueue;
mod fence;
mod order;
mod settle;

use std::sync::Arc;

use pgqrs::*;

use super::scene::*;

pub use {claim::*, enqueue::*, fence::*, order::*, settle::*};

/// Reads show delayed, ready and leased messages as such, each with what is known of it.
pub async fn reads_show_where_a_message_stands(store: &Arc<dyn Store>) {
    let scene = Scene::new(store).await;
    let leased = scene.lease(1).await.remove(0);
    let ready = scene.enqueue(1).await[0];
    let delayed = scene.send(delayed(60)).await;
    for (id, state, visible_at, receipt) in [
        (leased.id, MessageState::Leased, instant(30), Some(leased.receipt)),
        (ready, MessageState::Ready, instant(0), None),
        (delayed, MessageState::Delayed, instant(60), None),
    ] {
        let shown = scene.live_one(id).await;
        assert_eq!((shown.state, shown.visible_at, shown.receipt), (state, visible_at, receipt));
        assert_eq!((shown.queue, shown.enqueued_at), (scene.queue.clone(), instant(0)));
    }
}

/// Reads filter live messages by queue, by state and by id, and an id that is not there is no
/// error.
pub async fn reads_filter_live_messages(store: &Arc<dyn Store>) {
    let scene = Scene::new(store).await;
    let leased = scene.lease(1).await.remove(0).id;
    let ready = scene.enqueue(2).await;
    let delayed = scene.send(delayed(60)).await;
    let other = scene.queue("other").await.enqueue(1).await[0];
    let read = async |filter| live_ids(&store.messages(filter).await.unwrap());
    let all = scene.all_live();
    let in_state = |state| MessageFilter { state: Some(state), ..all.clone() };
    assert_eq!(read(all.clone()).await, [leased, ready[0], ready[1], delayed, other]);
    assert_eq!(read(in_state(MessageState::Leased)).await, [leased]);
    assert_eq!(read(in_state(MessageState::Ready)).await, [ready[0], ready[1], other]);
    assert_eq!(read(in_state(MessageState::Delayed)).await, [delayed]);
    let queue = Some(scene.queue.clone());
    let of_queue = MessageFilter { queue, ..in_state(MessageState::Ready) };
    assert_eq!(read(of_queue.clone()).await, ready);
    assert_eq!(read(MessageFilter { id: Some(ready[1]), ..of_queue.clone() }).await, [ready[1]]);
    assert_eq!(read(MessageFilter { id: Some(other), ..of_queue }).await, []);
    assert_eq!(read(MessageFilter { id: Some(MessageId(i64::MAX)), ..all }).await, []);
}

/// Reads show the live messages that one worker holds.
pub async fn reads_filter_live_messages_by_worker(store: &Arc<dyn Store>) {
    let scene = Scene::new(store).await;
    let (one, two) = (scene.register("one").await, scene.register("two").await);
    let held = ids(&scene.by(&one).lease(2).await);
    scene.by(&two).lease(1).await;
    scene.lease(1).await;
    let filter = MessageFilter { worker: Some(one.id), ..scene.all_live() };
    assert_eq!(live_ids(&store.messages(filter).await.unwrap()), held);
}

/// Reads of live messages come in pages, by id, and the pages together hold each message once.
pub async fn reads_page_live_messages(store: &Arc<dyn Store>) {
    let scene = Scene::new(store).await;
    let sent = scene.send_all((0..7).map(|n| urgent(n % 3)).collect()).await;
    let (mut read, mut page) = (Vec::new(), Page::first(BatchSize::new(3).unwrap()));
    for rows in [3, 3, 1, 0] {
        let filter = MessageFilter { page, ..scene.all_live() };
        let found = live_ids(&store.messages(filter).await.unwrap());
        assert_eq!(found.len(), rows);
        page.after = found.last().copied().or(page.after);
        read.extend(found);
    }
    assert_eq!(read, sent);
}
