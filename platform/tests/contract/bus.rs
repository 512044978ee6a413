//! The contract of the bus port.

use std::sync::Arc;

use carillon_platform::bus::{Bus, Subscription};

/// Makes one test per fact; the expression makes an `Arc<dyn Bus>` that nobody else uses, and may await.
macro_rules! bus_contract {
    ($make:expr) => {
        $crate::contract::bus::bus_contract!($make;
            subscribers_get_whole_batches,
            batches_keep_their_order,
            subjects_are_exact,
            every_subscriber_gets_each,
            earlier_batches_stay_unheard,
            dropped_subscriptions_end,
        );
    };
    ($make:expr; $($fact:ident,)*) => {
        $(
            #[tokio::test]
            async fn $fact() {
                $crate::contract::bus::$fact($make).await;
            }
        )*
    };
}
pub(crate) use bus_contract;

async fn subscribe(bus: &Arc<dyn Bus>, subject: &str) -> Subscription {
    bus.subscribe(subject).await.expect("the bus is there")
}

async fn hear(subscription: &mut Subscription) -> String {
    String::from_utf8(subscription.next().await.expect("the bus stays").to_vec()).expect("the test sent text")
}

pub(crate) async fn subscribers_get_whole_batches(bus: Arc<dyn Bus>) {
    let mut heard = subscribe(&bus, "a").await;
    for batch in ["", "one", &"x".repeat(512 * 1024)] {
        bus.publish("a", batch.to_owned().into());
        assert_eq!(hear(&mut heard).await, batch);
    }
}

pub(crate) async fn batches_keep_their_order(bus: Arc<dyn Bus>) {
    let mut heard = subscribe(&bus, "a").await;
    for n in 0..500 {
        bus.publish("a", n.to_string().into());
    }
    for n in 0..500 {
        assert_eq!(hear(&mut heard).await, n.to_string());
    }
}

pub(crate) async fn subjects_are_exact(bus: Arc<dyn Bus>) {
    let mut heard = subscribe(&bus, "gw.a.1").await;
    for other in ["gw.a", "gw.a.10", "gw.a.1.b", "gw.b.1"] {
        bus.publish(other, "other".into());
    }
    bus.publish("gw.a.1", "mine".into());
    assert_eq!(hear(&mut heard).await, "mine");
}

pub(crate) async fn every_subscriber_gets_each(bus: Arc<dyn Bus>) {
    let (mut one, mut two) = (subscribe(&bus, "a").await, subscribe(&bus, "a").await);
    bus.publish("a", "all".into());
    assert_eq!(hear(&mut one).await, "all");
    assert_eq!(hear(&mut two).await, "all");
}

pub(crate) async fn earlier_batches_stay_unheard(bus: Arc<dyn Bus>) {
    bus.publish("a", "early".into());
    let mut heard = subscribe(&bus, "a").await;
    bus.publish("a", "late".into());
    assert_eq!(hear(&mut heard).await, "late");
}

pub(crate) async fn dropped_subscriptions_end(bus: Arc<dyn Bus>) {
    drop(subscribe(&bus, "a").await);
    let mut heard = subscribe(&bus, "a").await;
    bus.publish("a", "one".into());
    assert_eq!(hear(&mut heard).await, "one");
    assert!(heard.try_next().is_none());
}
