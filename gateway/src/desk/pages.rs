//! Pages of connections: each shard gives its first lines, each gateway those of its shards, and what they give is put together. A page is
//! bounded, whatever there is.

use carillon_proto::survey::{Connection, ConnectionPlace, ConnectionsAsked, ConnectionsFound};

/// What a shard found.
#[derive(Debug, Default)]
pub(crate) struct Found {
    /// How many there are in all, on any page.
    pub(crate) count: u64,
    /// Of this page, in the order of their places.
    pub(crate) lines: Vec<Connection>,
    /// There are further ones.
    pub(crate) more: bool,
}

/// A page of all gateways that answered.
#[derive(Debug)]
pub(crate) struct Connections {
    pub(crate) found: Found,
    /// Gateways that did not answer in time.
    pub(crate) missing: Vec<String>,
}

/// Whether a place is on a page before: gateways follow each other by their ids, and in each its shards.
pub(crate) fn is_shown_already(asked: &ConnectionsAsked, gateway: &str, shard: u32, index: u32) -> bool {
    let is_before = |after: &ConnectionPlace| (gateway, shard, index) <= (after.gateway.as_str(), after.shard, after.index);
    asked.after.as_ref().is_some_and(is_before)
}

/// Of all shards of a gateway, or of all gateways.
pub(super) fn join(found: Vec<Found>, limit: usize) -> Found {
    let count = found.iter().map(|found| found.count).sum();
    let mut more = found.iter().any(|found| found.more);
    let mut lines: Vec<_> = found.into_iter().flat_map(|found| found.lines).collect();
    lines.sort_unstable_by(|one, other| place(one).cmp(&place(other)));
    more |= lines.len() > limit;
    lines.truncate(limit);
    Found { count, lines, more }
}

fn place(line: &Connection) -> Option<(&str, u32, u32)> {
    line.place.as_ref().map(|place| (place.gateway.as_str(), place.shard, place.index))
}

impl Found {
    pub(super) fn of(told: ConnectionsFound) -> Self {
        Self { count: told.count, lines: told.connections, more: told.more }
    }

    pub(super) fn told(self, gateway: &str) -> ConnectionsFound {
        ConnectionsFound { gateway: gateway.to_owned(), count: self.count, connections: self.lines, more: self.more }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(gateway: &str, shard: u32, index: u32) -> ConnectionPlace {
        ConnectionPlace { gateway: gateway.to_owned(), shard, index }
    }

    /// What a gateway with two shards of five connections each finds.
    fn found(gateway: &str, asked: &ConnectionsAsked) -> Found {
        let shard = |shard: u32| {
            let all = (0..5).filter(|index| !is_shown_already(asked, gateway, shard, *index));
            let lines = all.map(|index| Connection { place: Some(at(gateway, shard, index)), ..Connection::default() });
            let lines: Vec<_> = lines.collect();
            let more = lines.len() > asked.limit as usize;
            Found { count: 5, lines: lines.into_iter().take(asked.limit as usize).collect(), more }
        };
        join(vec![shard(1), shard(0)], asked.limit as usize)
    }

    #[test]
    fn pages_show_every_connection_of_every_gateway_once() {
        let mut asked = ConnectionsAsked { limit: 3, ..ConnectionsAsked::default() };
        let mut shown = Vec::new();
        loop {
            let page = join(vec![found("b", &asked), found("a", &asked)], 3);
            assert_eq!(page.count, 20);
            shown.extend(page.lines.iter().map(|line| line.place.clone().unwrap()));
            match shown.last() {
                Some(last) if page.more => asked.after = Some(last.clone()),
                _ => break,
            }
        }
        let all = ["a", "b"]
            .into_iter()
            .flat_map(|gateway| (0..2).flat_map(move |shard| (0..5).map(move |index| at(gateway, shard, index))));
        assert_eq!(shown, all.collect::<Vec<_>>());
    }
}
