//! Everything of the zoo under `jobcage run`, ended in every way: nothing of it is left, or it is named.
//!
//! `JOBCAGE_SWEEP=full` runs every animal with every ending; otherwise a seeded choice of them.

mod matrix;
mod support;

fn row(test: &str) {
    let animals = matrix::animals::all();
    let index = animals
        .iter()
        .position(|a| a.name.replace('-', "_") == test)
        .expect("it is in the table");
    matrix::run_row(index, &animals[index]);
}

macro_rules! rows {
    ($($test:ident)*) => {
        $(#[test] fn $test() { row(stringify!($test)); })*

        #[test]
        fn every_animal_has_its_test() {
            let tests = [$(stringify!($test)),*];
            for animal in matrix::animals::all() {
                assert!(tests.contains(&animal.name.replace('-', "_").as_str()), "{} has none", animal.name);
            }
        }
    };
}

rows! {
    double_fork setsid scrubbed hostile_name keep_stdout leader_exit ignore_term stopped vfork_wait zombie
    non_dumpable threads hog cpu_spin rabbits bomb_tree bomb_hop bomb_hop_setsid threaded_cgroup nested_cgroups
    move_sibling ptrace_inside setuid kvm_vm ssh_agent
    ignore_term_as_nobody scrubbed_as_nobody non_dumpable_as_nobody without_clone3 without_cgroup_kill
    bomb_without_cgroup_kill without_cgroup_freeze without_kill_and_freeze rabbits_without_kill_and_freeze bomb_limited hog_measured jobcage_inside_jobcage
    once_killed_launcher fuse_stat fuse_open fuse_exec fuse_chdir fuse_vfork_exec ptrace_outside leave_by_itself
    su_with_pam_systemd systemd_run_scope systemd_run_service at_job
}
