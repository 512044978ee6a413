//! The contract of the key-value port.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use bytes::Bytes;
use carillon_platform::kv::{Bucket, Buckets, Entry, Kv, KvError, Listed, MAX_KEY_BYTES, MAX_VALUE_BYTES};
use futures_util::future::{BoxFuture, join_all};
use tokio::time::{sleep, timeout};

/// A place where buckets live on while processes come and go.
pub(crate) trait World {
    /// The buckets, opened by another process so to say. The ones before were dropped.
    fn buckets(&self) -> BoxFuture<'_, Arc<dyn Buckets>>;
}

/// Makes one test per fact; the expression makes a [`World`] without buckets.
macro_rules! kv_contract {
    ($make:expr) => {
        $crate::contract::kv::kv_contract!($make;
            written_entries_are_there,
            nothing_is_there_at_first,
            create_refuses_what_is_there,
            update_needs_the_newest_revision,
            one_of_many_updates_wins,
            deleted_entries_are_gone,
            revisions_only_grow,
            lists_are_whole,
            odd_keys_stay_apart,
            buckets_stay_apart,
            bad_entries_are_refused,
            reopening_loses_nothing,
            old_entries_go,
            written_again_is_young_again,
        );
    };
    ($make:expr; $($fact:ident,)*) => {
        $(
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $fact() {
                $crate::contract::kv::$fact(&$make).await;
            }
        )*
    };
}
pub(crate) use kv_contract;

const A: Bucket = Bucket::new("a");
const SHORT: Bucket = Bucket { name: "short", max_age: Some(Duration::from_secs(2)) };

async fn open(world: &impl World) -> Arc<dyn Kv> {
    world.buckets().await.open(A).await.expect("there")
}

async fn value(kv: &Arc<dyn Kv>, key: &str) -> Option<Bytes> {
    kv.get(key).await.expect("there").map(|entry| entry.value)
}

async fn listed(kv: &Arc<dyn Kv>) -> BTreeMap<String, Bytes> {
    kv.list().await.expect("there").into_iter().map(|(key, entry)| (key, entry.value)).collect()
}

pub(crate) async fn written_entries_are_there(world: &impl World) {
    let kv = open(world).await;
    for text in ["one", "", "two"] {
        let revision = kv.put("key", text.into()).await.unwrap();
        assert_eq!(kv.get("key").await.unwrap(), Some(Entry { value: text.into(), revision }));
    }
    let large = Bytes::from(vec![b'x'; MAX_VALUE_BYTES]);
    kv.put("large", large.clone()).await.unwrap();
    assert_eq!(value(&kv, "large").await, Some(large));
}

pub(crate) async fn nothing_is_there_at_first(world: &impl World) {
    let kv = open(world).await;
    assert_eq!(kv.get("key").await, Ok(None));
    assert_eq!(kv.list().await, Ok(vec![]));
    assert_eq!(kv.delete("key").await, Ok(()));
    assert_eq!(kv.update("key", "x".into(), 1).await, Err(KvError::Conflict));
    assert_eq!(kv.list().await, Ok(vec![]));
}

pub(crate) async fn create_refuses_what_is_there(world: &impl World) {
    let kv = open(world).await;
    kv.create("key", "one".into()).await.unwrap();
    assert_eq!(kv.create("key", "two".into()).await, Err(KvError::Conflict));
    assert_eq!(value(&kv, "key").await.unwrap(), "one");
    kv.delete("key").await.unwrap();
    kv.create("key", "three".into()).await.unwrap();
    assert_eq!(value(&kv, "key").await.unwrap(), "three");
}

pub(crate) async fn update_needs_the_newest_revision(world: &impl World) {
    let kv = open(world).await;
    let first = kv.put("key", "one".into()).await.unwrap();
    let second = kv.update("key", "two".into(), first).await.unwrap();
    for wrong in [first, second + 1, 0] {
        assert_eq!(kv.update("key", "wrong".into(), wrong).await, Err(KvError::Conflict));
    }
    kv.put("other", "x".into()).await.unwrap();
    assert_eq!(kv.get("key").await.unwrap(), Some(Entry { value: "two".into(), revision: second }));
    kv.update("key", "three".into(), second).await.unwrap();
    assert_eq!(value(&kv, "key").await.unwrap(), "three");
}

pub(crate) async fn one_of_many_updates_wins(world: &impl World) {
    let kv = open(world).await;
    let created = join_all((0..8).map(|n| kv.create("key", n.to_string().into()))).await;
    assert_eq!(created.iter().filter(|it| it.is_ok()).count(), 1, "{created:?}");
    let mut revision = created.into_iter().find_map(Result::ok).unwrap();
    for round in 0..5 {
        let updated = join_all((0..8).map(|n| kv.update("key", format!("{round} {n}").into(), revision))).await;
        let won: Vec<_> = updated.iter().enumerate().filter_map(|(n, it)| Some((n, *it.as_ref().ok()?))).collect();
        assert_eq!(won.len(), 1, "{updated:?}");
        assert!(updated.iter().all(|it| matches!(it, Ok(_) | Err(KvError::Conflict))), "{updated:?}");
        revision = won[0].1;
        assert_eq!(value(&kv, "key").await.unwrap(), format!("{round} {}", won[0].0));
    }
}

pub(crate) async fn deleted_entries_are_gone(world: &impl World) {
    let kv = open(world).await;
    let revision = kv.put("key", "one".into()).await.unwrap();
    kv.put("other", "x".into()).await.unwrap();
    kv.delete("key").await.unwrap();
    assert_eq!(kv.get("key").await, Ok(None));
    assert_eq!(listed(&kv).await.into_keys().collect::<Vec<_>>(), ["other"]);
    assert_eq!(kv.update("key", "wrong".into(), revision).await, Err(KvError::Conflict));
    kv.delete("key").await.unwrap();
    kv.delete("other").await.unwrap();
    assert_eq!(kv.list().await, Ok(vec![]));
}

pub(crate) async fn revisions_only_grow(world: &impl World) {
    let mut last = 0;
    for round in 0..3 {
        let kv = open(world).await;
        for text in ["one", "two"] {
            let revision = kv.put("key", text.into()).await.unwrap();
            assert!(revision > last, "round {round}: {revision} after {last}");
            last = revision;
        }
        kv.delete("key").await.unwrap();
    }
}

pub(crate) async fn lists_are_whole(world: &impl World) {
    let kv = open(world).await;
    for n in 0..300 {
        kv.put(&format!("key {n}"), n.to_string().into()).await.unwrap();
    }
    for n in (0..300).step_by(3) {
        kv.put(&format!("key {n}"), format!("again {n}").into()).await.unwrap();
    }
    let before = kv.put("key 1", "late".into()).await.unwrap();
    assert_eq!(kv.list_after(before).await, Ok(Listed { entries: vec![], upto: before }));
    let revision = kv.put("key 2", "later".into()).await.unwrap();
    let later = ("key 2".to_owned(), Entry { value: "later".into(), revision });
    assert_eq!(kv.list_after(before).await, Ok(Listed { entries: vec![later], upto: revision }));
    let all = listed(&kv).await;
    assert_eq!(all.len(), 300);
    assert_eq!((&all["key 3"][..], &all["key 4"][..]), (&b"again 3"[..], &b"4"[..]));
    for n in 0..299 {
        kv.delete(&format!("key {n}")).await.unwrap();
    }
    assert_eq!(listed(&kv).await.into_keys().collect::<Vec<_>>(), ["key 299"]);
    assert!(kv.list_after(0).await.unwrap().upto >= revision, "the newest entry is gone, and yet that far was read");
}

pub(crate) async fn odd_keys_stay_apart(world: &impl World) {
    let kv = open(world).await;
    let longest = "ä".repeat(MAX_KEY_BYTES / 2);
    let keys = ["a", "A", "a.b", "a/b", "a b", "*", ">", "ä", "=41", "a\0", "\0", "-_", &longest];
    for key in keys {
        kv.create(key, key.to_owned().into()).await.unwrap();
    }
    for key in keys {
        assert_eq!(value(&kv, key).await.unwrap(), key);
    }
    assert!(listed(&kv).await.iter().all(|(key, value)| key == value));
    assert_eq!(listed(&kv).await.len(), keys.len());
}

pub(crate) async fn buckets_stay_apart(world: &impl World) {
    let buckets = world.buckets().await;
    let (a, b) = (buckets.open(A).await.unwrap(), buckets.open(Bucket::new("ab")).await.unwrap());
    a.put("key", "a".into()).await.unwrap();
    assert_eq!(b.get("key").await, Ok(None));
    b.create("key", "b".into()).await.unwrap();
    assert_eq!((listed(&a).await.len(), listed(&b).await.len()), (1, 1));
    b.delete("key").await.unwrap();
    assert_eq!(value(&a, "key").await.unwrap(), "a");
    assert_eq!(value(&buckets.open(A).await.unwrap(), "key").await.unwrap(), "a", "the same bucket again");
}

pub(crate) async fn bad_entries_are_refused(world: &impl World) {
    let kv = open(world).await;
    let long = "x".repeat(MAX_KEY_BYTES + 1);
    for key in ["", &long] {
        assert!(matches!(kv.put(key, "x".into()).await, Err(KvError::Refused(_))));
        assert!(matches!(kv.get(key).await, Err(KvError::Refused(_))));
    }
    let large = Bytes::from(vec![0; MAX_VALUE_BYTES + 1]);
    assert!(matches!(kv.create("key", large.clone()).await, Err(KvError::Refused(_))));
    assert!(matches!(kv.update("key", large, 1).await, Err(KvError::Refused(_))));
    assert_eq!(kv.list().await, Ok(vec![]));
}

pub(crate) async fn reopening_loses_nothing(world: &impl World) {
    let revision = {
        let kv = open(world).await;
        kv.put("gone", "x".into()).await.unwrap();
        kv.delete("gone").await.unwrap();
        kv.put("key", "one".into()).await.unwrap()
    };
    let kv = open(world).await;
    assert_eq!(kv.list().await.unwrap(), [("key".to_owned(), Entry { value: "one".into(), revision })]);
    kv.update("key", "two".into(), revision).await.unwrap();
}

pub(crate) async fn old_entries_go(world: &impl World) {
    let kv = world.buckets().await.open(SHORT).await.unwrap();
    kv.put("key", "one".into()).await.unwrap();
    let gone = timeout(Duration::from_secs(30), async {
        while kv.get("key").await.unwrap().is_some() {
            sleep(Duration::from_millis(50)).await;
        }
    });
    gone.await.expect("it goes some time");
    assert_eq!(kv.list().await, Ok(vec![]));
    kv.create("key", "two".into()).await.unwrap();
    assert_eq!(value(&kv, "key").await.unwrap(), "two");
}

pub(crate) async fn written_again_is_young_again(world: &impl World) {
    let kv = world.buckets().await.open(SHORT).await.unwrap();
    kv.put("old", "x".into()).await.unwrap();
    // Well beyond the age of the other one, in steps well below it.
    while value(&kv, "old").await.is_some() {
        kv.put("young", "x".into()).await.unwrap();
        sleep(Duration::from_millis(100)).await;
    }
    assert_eq!(listed(&kv).await.into_keys().collect::<Vec<_>>(), ["young"]);
}
