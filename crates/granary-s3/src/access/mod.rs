//! Authorisation of every request: which actions an operation needs ([`needs`]), what conditions see of a request
//! ([`view`]), and the question put to `granary-access` ([`gate`]).

pub(crate) mod gate;
pub(crate) mod needs;
pub(crate) mod view;

pub(crate) use gate::Gate;
pub(crate) use view::{AuthView, View};
