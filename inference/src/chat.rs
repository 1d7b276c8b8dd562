//! How chat messages become a prompt for a base model.

use serde::{Deserialize, Serialize};

/// One turn of a conversation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Message {
    /// Who speaks: `system`, `user` or `assistant`, or any other word.
    pub role: String,
    /// What is said.
    pub content: String,
}

/// The prompt of a conversation: a line `role: content` for each message, then `assistant:`.
pub fn render_chat(messages: &[Message]) -> String {
    let mut prompt = String::new();
    for Message { role, content } in messages {
        prompt.push_str(role);
        prompt.push_str(": ");
        prompt.push_str(content);
        prompt.push('\n');
    }
    prompt.push_str("assistant:");
    prompt
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_lines_and_the_assistant_is_next() {
        let say = |role: &str, content: &str| Message { role: role.into(), content: content.into() };
        let chat = [say("system", "Be brief."), say("user", "Why is the sky blue?")];
        assert_eq!(render_chat(&chat), "system: Be brief.\nuser: Why is the sky blue?\nassistant:");
        assert_eq!(render_chat(&[]), "assistant:");
    }
}
