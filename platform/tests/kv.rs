//! Each adapter of the key-value port keeps the contract.

mod contract {
    pub(crate) mod kv;
}

mod embedded {
    use std::sync::Arc;

    use carillon_platform::{
        kv::{Buckets, EmbeddedBuckets},
        log::EmbeddedLog,
    };
    use futures_util::future::BoxFuture;
    use tempfile::TempDir;

    use crate::contract::kv::World;

    struct Folder(TempDir);

    impl World for Folder {
        fn buckets(&self) -> BoxFuture<'_, Arc<dyn Buckets>> {
            let log = EmbeddedLog::open(self.0.path()).expect("the folder is free");
            Box::pin(std::future::ready(Arc::new(EmbeddedBuckets::of(Arc::new(log))) as Arc<dyn Buckets>))
        }
    }

    crate::contract::kv::kv_contract!(Folder(TempDir::new().expect("a temporary folder")));
}
