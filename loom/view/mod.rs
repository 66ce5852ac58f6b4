//! The files of `src/discovery/view/`, with a clock of the model.

#[path = "../../src/discovery/view/alias_table.rs"]
mod alias_table;
#[path = "../../src/discovery/view/budget.rs"]
mod budget;
#[path = "../../src/discovery/view/call.rs"]
mod call;
#[path = "../../src/discovery/view/choice.rs"]
mod choice;
mod clock;
#[path = "../../src/discovery/view/ejection.rs"]
mod ejection;
#[path = "../../src/discovery/view/hash_table.rs"]
mod hash_table;
#[path = "../../src/discovery/view/list.rs"]
mod list;
pub(crate) mod models;
#[path = "../../src/discovery/view/policy.rs"]
mod policy;
#[path = "../../src/discovery/view/record.rs"]
mod record;
#[path = "../../src/discovery/view/selection.rs"]
mod selection;
#[path = "../../src/discovery/view/service_view.rs"]
mod service_view;
#[path = "../../src/discovery/view/source.rs"]
mod source;
#[path = "../../src/discovery/view/timekeeper.rs"]
mod timekeeper;
#[path = "../../src/discovery/view/waiting.rs"]
mod waiting;
#[path = "../../src/discovery/view/writer.rs"]
mod writer;

pub(crate) use self::ejection::CallTotals;
