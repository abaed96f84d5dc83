//! The one binary, as a library: it assembles node, router and client, and nothing else.
//!
//! [`embedded`] runs a whole Flotilla in this process over one folder; [`config`] says how. Every other module is a command
//! of the binary, named as the user types it, or what several commands share: [`filter_json`], [`json`], [`npy`],
//! [`output`], [`progress`], [`table`], [`target`]. Commands talk to the database through `flotilla_client` only, as any
//! other user does.

pub mod bench;
pub mod cli;
pub mod collections;
pub mod config;
pub mod datetime;
pub mod demo;
pub mod embedded;
pub mod filter_json;
pub mod import;
pub mod json;
pub mod npy;
pub mod output;
pub mod progress;
pub mod scan;
pub mod search;
pub mod table;
pub mod target;
pub mod up;
