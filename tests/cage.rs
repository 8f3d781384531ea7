//! The cage on real cgroups: its life, its fallbacks for older kernels, limits, and the places where it can stand.
//!
//! On a hybrid host the limits and whatever needs systemd say `not applicable:`; `cargo test --test vm` runs them on
//! full cgroup v2, on two kernels, as root and as a user.

mod support;

#[path = "cage/fallbacks.rs"]
mod fallbacks;
#[path = "cage/lifecycle.rs"]
mod lifecycle;
#[path = "cage/limits.rs"]
mod limits;
#[path = "cage/places.rs"]
mod places;
#[path = "cage/tools.rs"]
mod tools;
#[path = "cage/user_places.rs"]
mod user_places;
