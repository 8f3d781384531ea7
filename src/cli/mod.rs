//! Words in, requests out.

pub mod request;
pub mod values;
