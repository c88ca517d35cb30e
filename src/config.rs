//! Layered configuration: flags over environment over file.
