/* What every animal of the zoo uses. See README.md for the rules that they keep. */
#ifndef ZOO_H
#define ZOO_H
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

/* One entry of `zoo`'s list. `run` gets what stands after the name and the options. */
struct animal {
	const char *name;
	const char *args;
	const char *what;
	void (*run)(int argc, char **argv);
};

/* The rooms; each ends with an entry without a name. */
extern const struct animal forks_room[], states_room[], bombs_room[], cgroups_room[], traces_room[], fuse_room[],
	persons_room[], filters_room[], terminals_room[], machines_room[];

/* A page that all processes of one animal share: counters, and pids that only a grandchild knows. */
struct board {
	atomic_long count;
	atomic_int pid[8];
};
extern struct board *board;
/* The code of `--exit`, or -1 to stay. */
extern int exit_code;
/* The FIFO of `--go`, whose writer is waited for before that exit, or NULL. */
extern const char *go_file;

/* Says what failed and with which errno, and exits with 99. */
_Noreturn void die(const char *fmt, ...) __attribute__((format(printf, 1, 2)));

/* SIGKILLs the caller after LIFE seconds, whatever state it is in; not inherited by fork, lost at exec. */
enum { LIFE = 300 };
void bounded_life(int seconds);

/* Waits for signals for ever. */
_Noreturn void stay(void);

/* Forks. The child gets a bounded life and runs `body`, which calls `arrived` (itself or in a descendant) once it is
 * in its state; then it stays. Returns the pid that arrived. */
pid_t spawn(void (*body)(void *), void *arg);
void arrived(void);
/* The descriptor that `arrived` writes to, for a program that is exec'ed as `zoo linger FD`. */
int arrival_fd(void);

/* Prints the one line `ready MAIN PID… WORD…` and then stays, or exits with the code of `--exit`. `words` may be NULL. */
_Noreturn void ready(const pid_t *pids, int n, const char *words);

/* Waits (10 s) until /proc/PID/stat shows this state letter. */
void await_state(pid_t pid, char state);
char proc_state(pid_t pid);
/* A short wait between two looks at something that sends no event. */
void nap(void);
double now(void);
long number(const char *text, long low, long high);

/* Files, with die() for every error. */
void write_file(const char *path, const char *text);
void make_dir(const char *path);
void to_dev_null(void);
/* The directory of the caller's cgroup v2. The result is malloc'ed. */
char *own_cgroup(void);
__attribute__((format(printf, 1, 2))) char *text(const char *fmt, ...);
#endif
