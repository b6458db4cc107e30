//! The types of events that UNITH names, and sets of them.

use std::{fmt, str::FromStr};

/// A type of event that UNITH names. Events of any other type are stored too.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum EventType {
    /// A conversation began.
    StartConversation,
    /// Its user said nothing for a while.
    InactivityWarning,
    /// Its user said nothing for so long that it ends.
    TimeoutConversation,
    /// It ended.
    EndConversation,
}

/// A text that is not the name of an [`EventType`].
#[derive(Debug, Clone, thiserror::Error, PartialEq, Eq)]
#[error(
    "`{0}` is not an event type: expected some of START_CONVERSATION, END_CONVERSATION, TIMEOUT_CONVERSATION, INACTIVITY_WARNING"
)]
pub struct UnknownType(String);

impl EventType {
    /// In the order in which UNITH documents them.
    pub const ALL: [Self; 4] =
        [Self::StartConversation, Self::EndConversation, Self::TimeoutConversation, Self::InactivityWarning];

    /// The name in deliveries, in upper case: `START_CONVERSATION`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::StartConversation => "START_CONVERSATION",
            Self::InactivityWarning => "INACTIVITY_WARNING",
            Self::TimeoutConversation => "TIMEOUT_CONVERSATION",
            Self::EndConversation => "END_CONVERSATION",
        }
    }

    /// The member of UNITH's management API that subscribes to it: `startConversation`.
    pub fn member(self) -> &'static str {
        match self {
            Self::StartConversation => "startConversation",
            Self::InactivityWarning => "inactivityWarning",
            Self::TimeoutConversation => "timeoutConversation",
            Self::EndConversation => "endConversation",
        }
    }

    fn bit(self) -> u8 {
        1 << self as u8
    }
}

impl FromStr for EventType {
    type Err = UnknownType;

    /// Reads a name in any case.
    fn from_str(name: &str) -> Result<Self, UnknownType> {
        let found = Self::ALL.into_iter().find(|kind| kind.as_str().eq_ignore_ascii_case(name));
        found.ok_or_else(|| UnknownType(name.to_owned()))
    }
}

impl fmt::Display for EventType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The position of a type, in any case, among events of one instant: UNITH sends whole seconds.
///
/// A conversation starts before anything else happens in it, and ends last, after the time-out that ends it.
pub fn rank(event_type: &str) -> u8 {
    match event_type.parse() {
        Ok(EventType::StartConversation) => 1,
        Ok(EventType::InactivityWarning) => 2,
        Err(_) => 3,
        Ok(EventType::TimeoutConversation) => 4,
        Ok(EventType::EndConversation) => 5,
    }
}

/// A set of event types: what a webhook is subscribed to.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct EventTypes(u8);

impl EventTypes {
    /// All four.
    pub const ALL: Self = Self(0b1111);
    /// A webhook that is registered, and not delivered to.
    pub const NONE: Self = Self(0);

    /// Whether `kind` is in the set.
    pub fn contains(self, kind: EventType) -> bool {
        self.0 & kind.bit() != 0
    }

    /// The types in the order of [`EventType::ALL`].
    pub fn iter(self) -> impl Iterator<Item = EventType> {
        EventType::ALL.into_iter().filter(move |kind| self.contains(*kind))
    }
}

impl FromIterator<EventType> for EventTypes {
    fn from_iter<I: IntoIterator<Item = EventType>>(types: I) -> Self {
        Self(types.into_iter().fold(0, |bits, kind| bits | kind.bit()))
    }
}

impl FromStr for EventTypes {
    type Err = UnknownType;

    /// Reads a comma-separated list of names, in any case.
    fn from_str(list: &str) -> Result<Self, UnknownType> {
        list.split(',').map(str::trim).filter(|name| !name.is_empty()).map(str::parse).collect()
    }
}

impl fmt::Display for EventTypes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<_> = self.iter().map(EventType::as_str).collect();
        f.write_str(if names.is_empty() { "none" } else { "" })?;
        f.write_str(&names.join(", "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_of_types_can_be_read_and_written() {
        let some: EventTypes = " start_conversation, END_CONVERSATION,".parse().unwrap();
        assert_eq!(some.to_string(), "START_CONVERSATION, END_CONVERSATION");
        assert!(some.contains(EventType::EndConversation) && !some.contains(EventType::TimeoutConversation));
        assert_eq!(EventTypes::default().to_string(), "none");
        assert_eq!("".parse(), Ok(EventTypes::NONE));
        assert_eq!(EventTypes::ALL.to_string().parse(), Ok(EventTypes::ALL));
        assert_eq!(EventType::ALL.into_iter().collect::<EventTypes>(), EventTypes::ALL);
        let error = "START".parse::<EventTypes>().unwrap_err().to_string();
        assert!(error.starts_with("`START` is not an event type"), "{error}");
    }
}
