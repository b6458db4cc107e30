//! The two spellings of a delivery.

use unith_events::{event_type::EventType, timestamp::Timestamp};

/// The spelling of timestamps and event types in deliveries. Everything else is the same in both styles.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Style {
    /// As in UNITH's developer kit: `"2026-08-31 06:56:30"`, `"start_conversation"`
    #[default]
    Kit,
    /// As in UNITH's guide: `"2026-01-15T09:57:33Z"`, `"START_CONVERSATION"`
    Guide,
}

impl Style {
    /// The name on the command line.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Kit => "kit",
            Self::Guide => "guide",
        }
    }

    pub(super) fn event_type(self, kind: EventType) -> String {
        match self {
            Self::Kit => kind.as_str().to_ascii_lowercase(),
            Self::Guide => kind.as_str().to_owned(),
        }
    }

    /// The instant in UTC, cut to whole seconds.
    pub(super) fn timestamp(self, at: Timestamp) -> String {
        let at = at.to_string();
        let seconds = at.get(.."2026-01-15T09:57:33".len()).unwrap_or(&at);
        match self {
            Self::Kit => seconds.replace('T', " "),
            Self::Guide => format!("{seconds}Z"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_style_cuts_an_instant_to_whole_seconds() {
        let at = Timestamp::parse("2026-08-31T08:56:30.987+02:00").unwrap();
        assert_eq!(Style::Kit.timestamp(at), "2026-08-31 06:56:30");
        assert_eq!(Style::Guide.timestamp(at), "2026-08-31T06:56:30Z");
    }
}
