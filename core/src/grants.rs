//! What a token allows. Permission is a value: whoever acts on a room holds a `May…`, and only [`Grants`] makes one.

use carillon_proto::{
    claims::{Grant, Operation},
    ids::{RoomName, UserId},
};

/// The rights of one user on one connection.
#[derive(Debug, Clone)]
pub struct Grants {
    user: UserId,
    /// `None`: the default of the protocol, everything but `admin` on every room except others' personal rooms.
    listed: Option<Box<[Grant]>>,
}

macro_rules! permits {
    ($($(#[$doc:meta])* $name:ident),+ $(,)?) => {$(
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq)]
        pub struct $name(RoomName);

        impl $name {
            /// Where it is allowed.
            pub fn room(&self) -> &RoomName {
                &self.0
            }
        }
    )+};
}

permits! {
    /// Leave to become a member of a room.
    MayJoin,
    /// Leave to send messages to a room.
    MayPublish,
    /// Leave to read what a room stores.
    MayRead,
    /// Leave to see who is in a room.
    MayWatch,
    /// Leave to delete what a room stores.
    MayErase,
}

/// Leave to issue tokens, to take them back, to disconnect users.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MayActForOthers(());

impl Grants {
    /// The rights that a verified token gives; `None` is the default of the protocol.
    pub fn new(user: UserId, listed: Option<Vec<Grant>>) -> Self {
        Self { user, listed: listed.map(Vec::into_boxed_slice) }
    }

    /// Whose rights these are.
    pub fn user(&self) -> &UserId {
        &self.user
    }

    /// A user is a member of the own personal room, whatever the token says.
    pub fn join(&self, room: RoomName) -> Option<MayJoin> {
        (self.is_own(&room) || self.allows(Operation::Join, &room)).then_some(MayJoin(room))
    }

    /// The membership that every connection starts with.
    pub fn personal(&self) -> MayJoin {
        MayJoin(RoomName::personal(&self.user))
    }

    /// May this user send there?
    pub fn publish(&self, room: RoomName) -> Option<MayPublish> {
        self.allows(Operation::Publish, &room).then_some(MayPublish(room))
    }

    /// May this user read what is stored there?
    pub fn read(&self, room: RoomName) -> Option<MayRead> {
        self.allows(Operation::History, &room).then_some(MayRead(room))
    }

    /// May this user see who is there?
    pub fn watch(&self, room: RoomName) -> Option<MayWatch> {
        self.allows(Operation::Presence, &room).then_some(MayWatch(room))
    }

    /// May this user delete what is stored there? The patterns of the grant `admin` count for this.
    pub fn erase(&self, room: RoomName) -> Option<MayErase> {
        self.allows(Operation::Admin, &room).then_some(MayErase(room))
    }

    /// May this user act for others? The grant names no room then: any `admin` counts.
    pub fn is_admin(&self) -> bool {
        self.act_for_others().is_some()
    }

    /// The same, as leave to do it.
    pub fn act_for_others(&self) -> Option<MayActForOthers> {
        let is_admin = self.listed.iter().flatten().any(|grant| grant.can.contains(&Operation::Admin));
        is_admin.then_some(MayActForOthers(()))
    }

    fn allows(&self, operation: Operation, room: &RoomName) -> bool {
        match &self.listed {
            None => operation != Operation::Admin && (room.owner().is_none() || self.is_own(room)),
            Some(listed) => listed
                .iter()
                .any(|grant| grant.can.contains(&operation) && grant.rooms.iter().any(|pattern| matches(pattern, room.as_str()))),
        }
    }

    fn is_own(&self, room: &RoomName) -> bool {
        room.owner() == Some(self.user.as_str())
    }
}

/// `*` matches any run of characters. Linear in practice: only the last star is ever tried again.
pub fn matches(pattern: &str, text: &str) -> bool {
    let (pattern, text) = (pattern.as_bytes(), text.as_bytes());
    let (mut p, mut t) = (0, 0);
    let mut star: Option<(usize, usize)> = None;
    while t < text.len() {
        if pattern.get(p) == Some(&b'*') {
            star = Some((p, t));
            p += 1;
        } else if pattern.get(p) == Some(&text[t]) {
            p += 1;
            t += 1;
        } else if let Some((after_star, tried)) = star {
            star = Some((after_star, tried + 1));
            p = after_star + 1;
            t = tried + 1;
        } else {
            return false;
        }
    }
    pattern[p..].iter().all(|byte| *byte == b'*')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn room(name: &str) -> RoomName {
        RoomName::parse(name).unwrap()
    }

    fn grants(listed: Option<Vec<(&str, Operation)>>) -> Grants {
        let listed =
            listed.map(|all| all.into_iter().map(|(at, can)| Grant { rooms: vec![at.into()], can: vec![can] }).collect());
        Grants::new(UserId::parse("ada").unwrap(), listed)
    }

    #[test]
    fn stars_match_any_run() {
        for (pattern, text) in
            [("*", ""), ("*", "a"), ("a*", "a"), ("chat:*", "chat:1"), ("*b*d", "abcd"), ("a**c", "abc"), ("ä*", "äß")]
        {
            assert!(matches(pattern, text), "{pattern} {text}");
        }
        for (pattern, text) in [("", "a"), ("a", ""), ("a*", "ba"), ("*b", "bc"), ("chat:*", "chat"), ("a*b*c", "acb")] {
            assert!(!matches(pattern, text), "{pattern} {text}");
        }
    }

    #[test]
    fn default_is_everything_but_others_personal_rooms() {
        let ada = grants(None);
        assert!(ada.join(room("chat:1")).is_some() && ada.publish(room("chat:1")).is_some());
        assert!(ada.join(room("user:ada")).is_some() && ada.publish(room("user:ada")).is_some());
        assert!(ada.join(room("user:bob")).is_none() && ada.publish(room("user:bob")).is_none());
        assert!(ada.read(room("user:bob")).is_none() && ada.watch(room("user:bob")).is_none());
        assert!(!ada.is_admin());
    }

    #[test]
    fn empty_grants_leave_the_personal_room() {
        let ada = grants(Some(vec![]));
        assert!(ada.join(room("user:ada")).is_some());
        assert!(ada.publish(room("user:ada")).is_none());
        assert!(ada.join(room("chat:1")).is_none());
    }

    #[test]
    fn listed_grants_are_exact() {
        let ada = grants(Some(vec![("chat:*", Operation::Join), ("*", Operation::Publish)]));
        assert!(ada.join(room("chat:1")).is_some());
        assert!(ada.join(room("news")).is_none());
        assert!(ada.publish(room("user:bob")).is_some());
        assert!(ada.read(room("chat:1")).is_none());
        let admin = grants(Some(vec![("chat:*", Operation::Admin)]));
        assert!(admin.is_admin() && admin.erase(room("chat:1")).is_some());
        assert!(admin.erase(room("news")).is_none() && ada.erase(room("chat:1")).is_none());
    }
}
