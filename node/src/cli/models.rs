//! What `swarm-node models` takes.

use std::path::PathBuf;

use clap::builder::BoolishValueParser;
use clap::{Args, Subcommand};
use swarm_protocol::Millis;

use super::values::positive_duration;

/// What can be asked of models.
#[derive(Debug, Clone, PartialEq, Eq, Subcommand)]
pub enum ModelsCommand {
    /// List the built-in models, those that were pulled and those of --model, and who can run them
    List {
        /// Print one JSON object to stdout
        #[arg(long, env = "SWARMPOOL_JSON", value_parser = BoolishValueParser::new())]
        json: bool,
    },
    /// Fetch one and install it; --name says what jobs are to call it
    Pull(PullArgs),
    /// Remove one that was pulled
    Remove {
        /// Its name
        #[arg(value_name = "MODEL")]
        model: String,
    },
    /// Print the manifest of one
    Inspect {
        /// Its name, or its manifest.json
        #[arg(value_name = "MODEL")]
        model: String,
    },
    /// Take one through the checklist: whether it is whole, fits, repeats itself, and answers alone as among others
    Validate {
        /// Its name, or its manifest.json
        #[arg(value_name = "MODEL")]
        model: String,

        /// A text of the kind that the model knows, which it scores and continues [default: the opening of a novel]
        #[arg(long, env = "SWARMPOOL_TEXT", value_name = "FILE")]
        text: Option<PathBuf>,

        /// Write what was found as JSON to this file too
        #[arg(long, env = "SWARMPOOL_OUT", value_name = "FILE")]
        out: Option<PathBuf>,

        /// Print one JSON object to stdout
        #[arg(long, env = "SWARMPOOL_JSON", value_parser = BoolishValueParser::new())]
        json: bool,
    },
    /// Measure how far apart honest runs of one are on this machine, and print the tolerance for its manifest
    Calibrate {
        /// Its name, or its manifest.json
        #[arg(value_name = "MODEL")]
        model: String,

        /// A text of the kind that the model knows, pieces of which it continues [default: the opening of a novel]
        #[arg(long, env = "SWARMPOOL_TEXT", value_name = "FILE")]
        text: Option<PathBuf>,

        /// Jobs for each way to run it; the more, the surer it is that false alarms are rare
        #[arg(long, env = "SWARMPOOL_CALIBRATION_JOBS", default_value = "400", value_name = "N",
              value_parser = clap::value_parser!(u32).range(2..=100_000))]
        jobs: u32,

        /// Write what was found as JSON to this file too
        #[arg(long, env = "SWARMPOOL_OUT", value_name = "FILE")]
        out: Option<PathBuf>,

        /// Print one JSON object to stdout
        #[arg(long, env = "SWARMPOOL_JSON", value_parser = BoolishValueParser::new())]
        json: bool,
    },
}

/// What is fetched, and from where.
#[derive(Debug, Clone, PartialEq, Eq, Args)]
pub struct PullArgs {
    /// A path; OWNER/REPOSITORY on Hugging Face, with /FILE.gguf and @REVISION if need be (HF_ENDPOINT, HF_TOKEN); or a
    /// CID, from other nodes
    #[arg(value_name = "SOURCE")]
    pub source: String,

    /// How long to wait for a source that is silent
    #[arg(long, env = "SWARMPOOL_PATIENCE", default_value = "30s", value_name = "TIME",
          value_parser = positive_duration)]
    pub patience: Millis,

    /// Print one JSON object to stdout
    #[arg(long, env = "SWARMPOOL_JSON", value_parser = BoolishValueParser::new())]
    pub json: bool,
}
