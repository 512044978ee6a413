//! Each adapter of the bus keeps the contract.

mod contract {
    pub(crate) mod bus;
}

mod in_process {
    use std::sync::Arc;

    use carillon_platform::bus::InProcessBus;

    crate::contract::bus::bus_contract!(Arc::new(InProcessBus::new()));
}
