/* talk: a job that writes when it is told to, so that who reads can be there first.
 *
 *   talk first FIFO                  opens FIFO, writes one byte into it, ends
 *   talk flood GO DONE SIZE TOTAL    writes TOTAL bytes in pieces of SIZE
 *   talk drip GO DONE COUNT MICROS   writes the time COUNT times, without newlines, so far apart
 *
 * The last two write one byte when they are there, wait for a byte in the fifo GO, tell in the fifo DONE how many
 * nanoseconds the writing took, and wait for another byte before they end. */
#include <err.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

static uint64_t now(void)
{
	struct timespec time;
	clock_gettime(CLOCK_BOOTTIME, &time);
	return (uint64_t)time.tv_sec * 1000000000u + (uint64_t)time.tv_nsec;
}

static void put(int fd, const void *what, size_t size)
{
	for (const char *at = what; size > 0;) {
		ssize_t done = write(fd, at, size);
		if (done < 0)
			err(1, "write");
		at += done;
		size -= (size_t)done;
	}
}

static int reach(const char *fifo, int how)
{
	int fd = open(fifo, how);
	if (fd < 0)
		err(1, "%s", fifo);
	return fd;
}

static void await(int go)
{
	char byte;
	if (read(go, &byte, 1) != 1)
		err(1, "nobody says go");
}

static void flood(size_t size, uint64_t total)
{
	char *piece = malloc(size);
	if (!piece)
		err(1, "malloc");
	memset(piece, 'x', size);
	piece[size - 1] = '\n';
	for (uint64_t left = total; left > 0;) {
		size_t part = left < size ? (size_t)left : size;
		put(1, piece, part);
		left -= part;
	}
	free(piece);
}

static void drip(uint64_t count, long micros)
{
	struct timespec apart = {micros / 1000000, micros % 1000000 * 1000};
	for (; count > 0; count--) {
		/* Not a line: the time, and a word as of a progress bar. */
		char part[18] = "........ 42 % done";
		nanosleep(&apart, NULL);
		uint64_t time = now();
		memcpy(part, &time, sizeof time);
		put(1, part, sizeof part);
	}
}

int main(int count, char **words)
{
	if (count == 3 && !strcmp(words[1], "first")) {
		put(reach(words[2], O_WRONLY), "r", 1);
		return 0;
	}
	if (count != 6)
		errx(2, "see the source");
	int go = reach(words[2], O_RDONLY), done = reach(words[3], O_WRONLY);
	put(1, "r", 1);
	await(go);
	uint64_t start = now();
	if (!strcmp(words[1], "flood"))
		flood(strtoul(words[4], NULL, 10), strtoull(words[5], NULL, 10));
	else
		drip(strtoull(words[4], NULL, 10), strtol(words[5], NULL, 10));
	uint64_t took = now() - start;
	put(done, &took, sizeof took);
	await(go);
	return 0;
}
