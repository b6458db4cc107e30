//! The actions of a person in UNITH's own user interface.

use unith_events::event_type::EventTypes;

use super::simulator::Platform;

impl Platform {
    /// Adds a head, its events off. Has no effect if the head exists.
    pub fn add_head(&self, id: &str) {
        self.engine.lock().add_head(id);
    }

    /// Deletes a head and its webhooks.
    pub fn remove_head(&self, id: &str) {
        let mut state = self.engine.lock();
        state.heads.retain(|head| head.id != id);
        state.webhooks.retain(|webhook| webhook.head_id != id);
    }

    /// Switches the events of a head on or off.
    pub fn enable_in_console(&self, head_id: &str, on: bool) {
        if let Some(head) = self.engine.lock().head_mut(head_id) {
            head.events_enabled = on;
        }
    }

    /// Registers a webhook.
    pub fn register_in_console(&self, head_id: &str, url: &str, subscriptions: EventTypes) {
        self.engine.lock().register(head_id.to_owned(), url.to_owned(), subscriptions);
    }

    /// Changes the subscriptions of a webhook.
    pub fn change_in_console(&self, id: u64, subscriptions: EventTypes) {
        if let Some(webhook) = self.engine.lock().webhooks.iter_mut().find(|webhook| webhook.id == id) {
            webhook.subscriptions = subscriptions;
        }
    }

    /// Deletes a webhook.
    pub fn delete_in_console(&self, id: u64) {
        self.engine.lock().webhooks.retain(|webhook| webhook.id != id);
    }
}
