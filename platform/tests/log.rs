//! Each adapter of the log keeps the contract.

mod contract {
    pub(crate) mod log;
}

mod embedded {
    use std::sync::Arc;

    use carillon_platform::log::{EmbeddedLog, Log};
    use futures_util::future::BoxFuture;
    use tempfile::TempDir;

    use crate::contract::log::World;

    struct Folder(TempDir);

    impl World for Folder {
        fn open(&self) -> BoxFuture<'_, Arc<dyn Log>> {
            let log = EmbeddedLog::open(self.0.path()).expect("the folder is free");
            Box::pin(std::future::ready(Arc::new(log) as Arc<dyn Log>))
        }
    }

    crate::contract::log::log_contract!(Folder(TempDir::new().expect("a temporary folder")));
}
