/* Those that are in a state in which signals, or looks into /proc, do not work as usual. */
#include "zoo.h"
#include <errno.h>
#include <limits.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

static void *thread_stays(void *arg)
{
	(void)arg;
	stay();
}

static void start_thread(void *(*body)(void *), void *arg)
{
	pthread_attr_t attr;
	pthread_t thread;
	pthread_attr_init(&attr);
	pthread_attr_setstacksize(&attr, PTHREAD_STACK_MIN);
	int error = pthread_create(&thread, &attr, body, arg);
	if (error) {
		errno = error;
		die("pthread_create");
	}
}

static void lose_leader(void *arg)
{
	(void)arg;
	start_thread(thread_stays, NULL);
	arrived();
	pthread_exit(NULL);
}

/* The thread that speaks for a main process whose first thread has exited. */
static void *speak(void *arg)
{
	await_state(getpid(), 'Z');
	ready(NULL, 0, arg);
}

/* `cgroup.kill` passes over a process whose first thread has exited (kernel-facts: up to 6.18). */
static void leader_exit(int argc, char **argv)
{
	if (argc > 0 && strcmp(argv[0], "main") == 0) {
		start_thread(speak, NULL);
		pthread_exit(NULL);
	}
	pid_t headless = spawn(lose_leader, NULL);
	await_state(headless, 'Z');
	ready(&headless, 1, NULL);
}

static void deaf(void *arg)
{
	for (int s = 1; s < 32; s++)
		if (s != SIGKILL && s != SIGSTOP && s != SIGCHLD)
			signal(s, SIG_IGN);
	if (arg)
		arrived();
}

static void ignore_term(int argc, char **argv)
{
	(void)argc, (void)argv;
	deaf(NULL);
	pid_t child = spawn(deaf, "child");
	ready(&child, 1, NULL);
}

static void stop_self(void *arg)
{
	(void)arg;
	arrived();
	raise(SIGSTOP);
}

static void stopped(int argc, char **argv)
{
	(void)argc, (void)argv;
	pid_t child = spawn(stop_self, NULL);
	await_state(child, 'T');
	ready(&child, 1, NULL);
}

static void wait_in_vfork(void *arg)
{
	(void)arg;
	atomic_store(&board->pid[0], getpid());
	/* The child shares our memory until it execs, which it never does: we sleep in D. */
	pid_t child = vfork();
	if (child == 0) {
		bounded_life(LIFE);
		arrived();
		stay();
	}
}

static void vfork_wait(int argc, char **argv)
{
	(void)argc, (void)argv;
	pid_t child = spawn(wait_in_vfork, NULL);
	pid_t parent = atomic_load(&board->pid[0]);
	await_state(parent, 'D');
	ready((pid_t[]){ parent, child }, 2, NULL);
}

static void keep_zombie(void *arg)
{
	(void)arg;
	pid_t dead = fork();
	if (dead == 0)
		_exit(7);
	atomic_store(&board->pid[0], dead);
	await_state(dead, 'Z');
	arrived();
}

static void zombie(int argc, char **argv)
{
	(void)argc, (void)argv;
	pid_t parent = spawn(keep_zombie, NULL);
	ready((pid_t[]){ parent, atomic_load(&board->pid[0]) }, 2, NULL);
}

static void hide_memory(void *arg)
{
	(void)arg;
	/* As ssh-agent does: /proc/PID belongs to root from here on. */
	if (prctl(PR_SET_DUMPABLE, 0))
		die("PR_SET_DUMPABLE");
	arrived();
}

static void non_dumpable(int argc, char **argv)
{
	(void)argc, (void)argv;
	pid_t child = spawn(hide_memory, NULL);
	ready(&child, 1, NULL);
}

static void many_threads(void *arg)
{
	long n = *(long *)arg;
	for (long i = 1; i < n; i++)
		start_thread(thread_stays, NULL);
	arrived();
}

static void threads(int argc, char **argv)
{
	long n = argc > 0 ? number(argv[0], 1, 20000) : 300;
	pid_t child = spawn(many_threads, &n);
	ready(&child, 1, NULL);
}

static void eat(void *arg)
{
	size_t size = (size_t)(*(long *)arg) << 20;
	char *food = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (food == MAP_FAILED)
		die("mmap of %zu bytes", size);
	for (size_t at = 0; at < size; at += 4096)
		food[at] = (char)(at >> 12 | 1);
	arrived();
}

static void hog(int argc, char **argv)
{
	long mib = argc > 0 ? number(argv[0], 1, 1 << 20) : 64;
	pid_t child = spawn(eat, &mib);
	ready(&child, 1, NULL);
}

static void spin(void *arg)
{
	(void)arg;
	/* Bounded by CPU time too, as it costs the neighbours. */
	struct rlimit cpu = { 30, 30 };
	setrlimit(RLIMIT_CPU, &cpu);
	arrived();
	for (volatile unsigned long n = 0;; n++)
		;
}

static void cpu_spin(int argc, char **argv)
{
	(void)argc, (void)argv;
	pid_t child = spawn(spin, NULL);
	ready(&child, 1, NULL);
}

const struct animal states_room[] = {
	{ "leader-exit", "[main]", "a child (or itself) whose first thread has exited while another lives", leader_exit },
	{ "ignore-term", "", "itself and a child that ignore every signal that can be ignored", ignore_term },
	{ "stopped", "", "a child that is stopped by SIGSTOP", stopped },
	{ "vfork-wait", "", "a child that waits in vfork (state D) for a child that never execs", vfork_wait },
	{ "zombie", "", "a child with a zombie that it never reaps", zombie },
	{ "non-dumpable", "", "a child with PR_SET_DUMPABLE 0", non_dumpable },
	{ "threads", "[N]", "a child with N threads (300)", threads },
	{ "hog", "[MIB]", "a child that touches MIB of memory (64)", hog },
	{ "cpu-spin", "", "a child that never sleeps", cpu_spin },
	{ 0 },
};
