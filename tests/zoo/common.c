/* What every animal uses: a bounded life, arrival, the line `ready`, and files. */
#include "zoo.h"
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

int exit_code = -1;
const char *go_file;
static int arrival = -1;

_Noreturn void die(const char *fmt, ...)
{
	int error = errno;
	va_list args;
	va_start(args, fmt);
	dprintf(2, "zoo: pid %d: ", (int)getpid());
	vdprintf(2, fmt, args);
	dprintf(2, ": %s\n", strerror(error));
	va_end(args);
	_exit(99);
}

void bounded_life(int seconds)
{
	/* A POSIX timer may send SIGKILL: it also ends a process that is stopped, that ignores SIGALRM, or whose first
	 * thread has exited. What sleeps in D is freed by its FUSE server, which has a bounded life too. */
	struct sigevent event = { .sigev_notify = SIGEV_SIGNAL, .sigev_signo = SIGKILL };
	struct itimerspec when = { .it_value.tv_sec = seconds };
	timer_t timer;
	if (timer_create(CLOCK_MONOTONIC, &event, &timer) || timer_settime(timer, 0, &when, NULL))
		die("timer");
}

_Noreturn void stay(void)
{
	for (;;)
		pause();
}

pid_t spawn(void (*body)(void *), void *arg)
{
	int ends[2];
	if (pipe(ends))
		die("pipe");
	pid_t child = fork();
	if (child < 0)
		die("fork");
	if (child == 0) {
		close(ends[0]);
		arrival = ends[1];
		bounded_life(LIFE);
		body(arg);
		stay();
	}
	close(ends[1]);
	pid_t who = 0;
	errno = 0;
	if (read(ends[0], &who, sizeof who) != sizeof who)
		die("child %d never arrived", (int)child);
	close(ends[0]);
	return who;
}

void arrived(void)
{
	pid_t me = getpid();
	if (write(arrival, &me, sizeof me) != sizeof me)
		die("cannot say that I arrived");
	close(arrival);
	arrival = -1;
}

int arrival_fd(void)
{
	return arrival;
}

_Noreturn void ready(const pid_t *pids, int n, const char *words)
{
	char line[4096];
	int used = snprintf(line, sizeof line, "ready %d", (int)getpid());
	for (int i = 0; i < n; i++)
		used += snprintf(line + used, sizeof line - (size_t)used, " %d", (int)pids[i]);
	if (words)
		used += snprintf(line + used, sizeof line - (size_t)used, " %s", words);
	used += snprintf(line + used, sizeof line - (size_t)used, "\n");
	if (write(1, line, (size_t)used) != used)
		die("stdout");
	if (exit_code < 0)
		stay();
	if (go_file && open(go_file, O_RDONLY | O_CLOEXEC) < 0)
		die("open %s", go_file);
	_exit(exit_code);
}

char proc_state(pid_t pid)
{
	char path[64], buffer[1024];
	snprintf(path, sizeof path, "/proc/%d/stat", (int)pid);
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return 0;
	ssize_t got = read(fd, buffer, sizeof buffer - 1);
	close(fd);
	if (got <= 0)
		return 0;
	buffer[got] = 0;
	/* The name may hold anything, so the last parenthesis counts. */
	char *close_paren = strrchr(buffer, ')');
	return close_paren ? close_paren[2] : 0;
}

void nap(void)
{
	nanosleep(&(struct timespec){ .tv_nsec = 1000000 }, NULL);
}

double now(void)
{
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

void await_state(pid_t pid, char state)
{
	double end = now() + 10;
	while (proc_state(pid) != state) {
		if (now() > end)
			die("process %d is in state %c, not %c", (int)pid, proc_state(pid), state);
		nap();
	}
}

long number(const char *from, long low, long high)
{
	char *end;
	errno = 0;
	long value = strtol(from, &end, 10);
	if (errno || end == from || *end || value < low || value > high)
		die("%s is no number from %ld to %ld", from, low, high);
	return value;
}

void write_file(const char *path, const char *what)
{
	int fd = open(path, O_WRONLY | O_CLOEXEC);
	if (fd < 0)
		die("open %s", path);
	if (write(fd, what, strlen(what)) < 0)
		die("write %s to %s", what, path);
	close(fd);
}

void make_dir(const char *path)
{
	if (mkdir(path, 0755) && errno != EEXIST)
		die("mkdir %s", path);
}

void to_dev_null(void)
{
	int fd = open("/dev/null", O_RDWR);
	if (fd < 0)
		die("/dev/null");
	for (int i = 0; i < 3; i++)
		dup2(fd, i);
	if (fd > 2)
		close(fd);
}

char *text(const char *fmt, ...)
{
	char *made;
	va_list args;
	va_start(args, fmt);
	if (vasprintf(&made, fmt, args) < 0)
		die("memory");
	va_end(args);
	return made;
}

/* The mount point of cgroup2: field 5 of the line whose part after " - " starts with the type. */
static char *cgroup2_mount(void)
{
	FILE *file = fopen("/proc/self/mountinfo", "re");
	char line[4096], point[2048];
	if (!file)
		die("mountinfo");
	while (fgets(line, sizeof line, file))
		if (strstr(line, " - cgroup2 ") && sscanf(line, "%*s %*s %*s %*s %2047s", point) == 1) {
			fclose(file);
			return text("%s", point);
		}
	errno = ENOENT;
	die("no cgroup2 is mounted");
}

char *own_cgroup(void)
{
	FILE *file = fopen("/proc/self/cgroup", "re");
	char line[4096];
	if (!file)
		die("/proc/self/cgroup");
	while (fgets(line, sizeof line, file))
		if (strncmp(line, "0::/", 4) == 0) {
			line[strcspn(line, "\n")] = 0;
			fclose(file);
			return text("%s%s", cgroup2_mount(), line + 3);
		}
	errno = ENOENT;
	die("this process is in no cgroup v2");
}
