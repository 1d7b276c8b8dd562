//! Where a model is pulled from, as the user writes it.

use crate::cli::UserError;
use crate::models::installed::is_name;
use crate::words::clean;
use cid::Cid;
use std::path::{Path, PathBuf};
use swarm_protocol::codec;

/// Says that a repository is meant even where a folder has the same name.
const HUB_PREFIX: &str = "hf:";
const DEFAULT_REVISION: &str = "main";

/// Where a model is pulled from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// A manifest, a file of weights, or the folder of either.
    Path(PathBuf),
    /// A repository of a hub.
    Hub(Repository),
    /// What other nodes publish.
    Swarm(Cid),
}

/// A repository of Hugging Face's hub.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Repository {
    pub owner: String,
    pub name: String,
    /// A branch, a tag or a commit.
    pub revision: String,
    /// The file of weights that is meant.
    pub file: Option<String>,
}

impl Source {
    /// What is meant; a path that is there beats everything else.
    pub fn parse(text: &str) -> Result<Self, UserError> {
        if let Some(repository) = text.strip_prefix(HUB_PREFIX) {
            return Repository::parse(repository).map(Self::Hub).ok_or_else(|| unclear(text));
        }
        let path = Path::new(text);
        if path.exists() {
            return Ok(Self::Path(path.to_owned()));
        }
        if let Ok(cid) = Cid::try_from(text) {
            return match codec::is_dag_pb(&cid) {
                true => Ok(Self::Swarm(cid)),
                false => Err(UserError::misuse(format!("{cid} names no folder, so no model"))
                    .hint("swarm-node models list shows the CID of a model where it is installed")),
            };
        }
        let is_path =
            path.is_absolute() || text.starts_with('.') || text.starts_with('~') || text.ends_with(".json");
        match Repository::parse(text) {
            Some(repository) if !is_path => Ok(Self::Hub(repository)),
            _ if is_path => Err(UserError::input(format!("there is no {}", clean(text)))
                .hint("name a manifest.json, a .gguf file, or a folder of one")),
            _ => Err(unclear(text)),
        }
    }
}

fn unclear(text: &str) -> UserError {
    UserError::misuse(format!("'{}' is no source of a model", clean(text)))
        .hint("write a path, owner/repository[/file.gguf][@revision] on Hugging Face, or a CID")
}

impl Repository {
    fn parse(text: &str) -> Option<Self> {
        let (path, revision) = text.split_once('@').unwrap_or((text, DEFAULT_REVISION));
        let parts: Vec<&str> = path.split('/').collect();
        let (owner, name, file) = match parts[..] {
            [owner, name] => (owner, name, None),
            [owner, name, file] => (owner, name, Some(file)),
            _ => return None,
        };
        let is_revision = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-' | '/');
        let holds = parts.iter().all(|part| is_name(part))
            && (1..=128).contains(&revision.len())
            && revision.chars().all(is_revision)
            && !revision.split('/').any(|part| matches!(part, "" | "." | ".."));
        let text = str::to_owned;
        holds.then(|| Self {
            owner: text(owner),
            name: text(name),
            revision: text(revision),
            file: file.map(text),
        })
    }
}

impl std::fmt::Display for Source {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Path(path) => write!(f, "{}", path.display()),
            Self::Hub(Repository { owner, name, .. }) => write!(f, "{owner}/{name}"),
            Self::Swarm(cid) => write!(f, "{cid}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hub(text: &str) -> Option<(String, String, String, Option<String>)> {
        match Source::parse(text) {
            Ok(Source::Hub(found)) => Some((found.owner, found.name, found.revision, found.file)),
            _ => None,
        }
    }

    #[test]
    fn sources_are_told_apart() {
        let own = |text: &str| text.to_owned();
        let qwen = |revision: &str, file: Option<&str>| {
            Some((own("Qwen"), own("Qwen3-0.6B-GGUF"), own(revision), file.map(str::to_owned)))
        };
        assert_eq!(hub("Qwen/Qwen3-0.6B-GGUF"), qwen("main", None));
        assert_eq!(hub("hf:Qwen/Qwen3-0.6B-GGUF@refs/pr/1"), qwen("refs/pr/1", None));
        assert_eq!(hub("Qwen/Qwen3-0.6B-GGUF/x.gguf@v1"), qwen("v1", Some("x.gguf")));
        let here = tempfile::tempdir().unwrap();
        assert_eq!(Source::parse(here.path().to_str().unwrap()), Ok(Source::Path(here.path().to_owned())));
        let folder = "bafybeiaj7fxbojiindsgj5oitahuzmouonhgky4fqpzvazgdue5egljbxq";
        assert!(matches!(Source::parse(folder), Ok(Source::Swarm(_))));
    }

    #[test]
    fn what_is_no_source_is_said_in_words() {
        let raw = codec::raw_cid(b"x").to_string();
        for (text, told) in [
            ("queenbee", "'queenbee' is no source of a model"),
            ("hf:queenbee", "'hf:queenbee' is no source of a model"),
            ("a/b/c/d", "'a/b/c/d' is no source of a model"),
            ("a/b@..", "'a/b@..' is no source of a model"),
            ("a/b?x=1", "'a/b?x=1' is no source of a model"),
            ("hf:../b", "'hf:../b' is no source of a model"),
            ("/nowhere/manifest.json", "there is no /nowhere/manifest.json"),
            ("nowhere/manifest.json", "there is no nowhere/manifest.json"),
            (raw.as_str(), "names no folder"),
        ] {
            let error = Source::parse(text).unwrap_err().message;
            assert!(error.contains(told), "{text}: {error}");
        }
    }
}
