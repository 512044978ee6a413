//! How fast a user may ask over HTTP. A request has no connection to be counted on, so that all requests of a user at this
//! gateway share one bucket, with the rate of one connection.

use std::{collections::HashMap, sync::Mutex, time::Instant};

use carillon_core::rate::{Bucket, Rate};
use carillon_proto::ids::UserId;

/// Buckets are looked through for idle ones when there are twice as many as after the last look, and this many at least.
const LOOK_AT: usize = 1024;

/// The buckets of all users. Shared by the shards of a gateway, since the requests of one user may come in on any of them.
#[derive(Debug)]
pub(crate) struct Rates {
    rate: Rate,
    start: Instant,
    buckets: Mutex<Buckets>,
}

#[derive(Debug, Default)]
struct Buckets {
    by_user: HashMap<UserId, Used>,
    look_at: usize,
}

#[derive(Debug)]
struct Used {
    bucket: Bucket,
    at_ms: u64,
}

impl Rates {
    pub(crate) fn new(rate: Rate) -> Self {
        Self { rate, start: Instant::now(), buckets: Mutex::default() }
    }

    /// Takes one request's worth, or tells after how many milliseconds there is one.
    pub(crate) fn take(&self, user: &UserId) -> Result<(), u32> {
        self.take_at(user, self.start.elapsed().as_millis() as u64)
    }

    fn take_at(&self, user: &UserId, now_ms: u64) -> Result<(), u32> {
        let mut buckets = self.buckets.lock().expect("nobody panics while taking");
        let full = || Used { bucket: Bucket::full(self.rate, now_ms), at_ms: now_ms };
        let used = buckets.by_user.entry(user.clone()).or_insert_with(full);
        used.at_ms = now_ms;
        let taken = used.bucket.take(self.rate, now_ms);
        if buckets.by_user.len() > buckets.look_at.max(LOOK_AT) {
            // A bucket that has had the time to fill is as good as a new one.
            let fills_ms = u64::from(self.rate.burst) * 1000 / u64::from(self.rate.per_second.max(1));
            buckets.by_user.retain(|_, used| now_ms - used.at_ms <= fills_ms);
            buckets.look_at = buckets.by_user.len() * 2;
        }
        taken
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn user(number: usize) -> UserId {
        UserId::parse(&format!("user {number}")).unwrap()
    }

    #[test]
    fn users_have_a_bucket_each() {
        let rates = Rates::new(Rate { per_second: 10, burst: 2 });
        assert_eq!([(); 3].map(|()| rates.take_at(&user(1), 0)), [Ok(()), Ok(()), Err(100)]);
        assert_eq!(rates.take_at(&user(2), 0), Ok(()));
        assert_eq!(rates.take_at(&user(1), 100), Ok(()));
    }

    #[test]
    fn idle_users_are_forgotten() {
        let rates = Rates::new(Rate { per_second: 10, burst: 10 });
        for number in 0..LOOK_AT {
            rates.take_at(&user(number), 0).unwrap();
        }
        rates.take_at(&user(LOOK_AT), 1001).unwrap();
        assert_eq!(rates.buckets.lock().unwrap().by_user.len(), 1);
    }
}
