/*
 * Kernels of work that no Debian package offers, for the benchmarks' guest: `kernels NAME COUNT` does COUNT rounds of
 * NAME and prints what they came to, so that a wrong result shows. Each is plain C as a compiler of the host makes it
 * (-O2, x86-64 baseline).
 */
#define _GNU_SOURCE
#include <complex.h>
#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#define PAGE 4096

static void die(const char *what)
{
	fprintf(stderr, "kernels: %s: %s\n", what, strerror(errno));
	exit(1);
}

static void *need(void *memory)
{
	if (!memory || memory == MAP_FAILED)
		die("memory");
	return memory;
}

/* Knuth's MMIX generator: the same numbers everywhere. */
static uint64_t random_state = 1;

static uint64_t next_random(void)
{
	random_state = random_state * 6364136223846793005u + 1442695040888963407u;
	return random_state >> 33;
}

/* ---- Integer -------------------------------------------------------------------------------------------------- */

static int by_value(const void *a, const void *b)
{
	uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
	return (x > y) - (x < y);
}

/* The C library's qsort on COUNT numbers: an indirect call for each comparison. */
static void quicksort(long count)
{
	uint32_t *numbers = need(malloc(count * sizeof *numbers));
	for (long i = 0; i < count; i++)
		numbers[i] = next_random();
	qsort(numbers, count, sizeof *numbers, by_value);
	printf("%u %u\n", numbers[0], numbers[count / 2]);
	free(numbers);
}

/* The sieve of Eratosthenes up to a million, COUNT times: byte stores with a stride. */
static void sieve(long count)
{
	enum { LIMIT = 1000000 };
	static unsigned char composite[LIMIT];
	long primes = 0;
	while (count--) {
		memset(composite, 0, sizeof composite);
		primes = 0;
		for (long i = 2; i < LIMIT; i++) {
			if (composite[i])
				continue;
			primes++;
			for (long j = 2 * i; j < LIMIT; j += i)
				composite[j] = 1;
		}
	}
	printf("%ld\n", primes);
}

/* ---- Floating point ------------------------------------------------------------------------------------------- */

struct body {
	double x[3], v[3], mass;
};

/* Five bodies under gravity, COUNT steps: square roots and divisions in long dependency chains. */
static void nbody(long count)
{
	static struct body bodies[5] = {
		{ { 0, 0, 0 }, { 0, 0, 0 }, 39.47841760435743 },
		{ { 4.841, -1.160, -0.104 }, { 0.606, 2.812, -0.025 }, 0.03769 },
		{ { 8.343, 4.125, -0.403 }, { -1.011, 1.826, 0.008 }, 0.01129 },
		{ { 12.894, -15.111, -0.223 }, { 1.083, 0.869, -0.011 }, 0.00172 },
		{ { 15.380, -25.919, 0.179 }, { 0.979, 0.595, -0.035 }, 0.00203 },
	};
	const double step = 0.001;
	while (count--) {
		for (int i = 0; i < 5; i++) {
			for (int j = i + 1; j < 5; j++) {
				struct body *a = &bodies[i], *b = &bodies[j];
				double d[3], square = 0;
				for (int k = 0; k < 3; k++) {
					d[k] = a->x[k] - b->x[k];
					square += d[k] * d[k];
				}
				double force = step / (square * sqrt(square));
				for (int k = 0; k < 3; k++) {
					a->v[k] -= d[k] * b->mass * force;
					b->v[k] += d[k] * a->mass * force;
				}
			}
		}
		for (int i = 0; i < 5; i++)
			for (int k = 0; k < 3; k++)
				bodies[i].x[k] += step * bodies[i].v[k];
	}
	printf("%.9f %.9f\n", bodies[0].x[0], bodies[1].x[1]);
}

/* The product of two matrices of 200 x 200 doubles, COUNT times: streams of multiplications and additions. */
static void matrix(long count)
{
	enum { N = 200 };
	static double a[N][N], b[N][N], c[N][N];
	for (int i = 0; i < N; i++) {
		for (int j = 0; j < N; j++) {
			a[i][j] = next_random() % 1000 / 1000.0;
			b[i][j] = next_random() % 1000 / 1000.0;
		}
	}
	while (count--) {
		memset(c, 0, sizeof c);
		for (int i = 0; i < N; i++)
			for (int k = 0; k < N; k++)
				for (int j = 0; j < N; j++)
					c[i][j] += a[i][k] * b[k][j];
		a[0][0] += 1e-9 * c[N - 1][N - 1];
	}
	printf("%.9f %.9f\n", c[0][0], c[N - 1][N - 1]);
}

/* The Mandelbrot set on COUNT x COUNT points: multiplications, comparisons and unforeseeable branches. */
static void mandelbrot(long count)
{
	long inside = 0;
	for (long row = 0; row < count; row++) {
		for (long column = 0; column < count; column++) {
			double cx = 3.0 * column / count - 2.0, cy = 2.0 * row / count - 1.0, x = 0, y = 0;
			int step = 0;
			for (; step < 100 && x * x + y * y < 4; step++) {
				double next = x * x - y * y + cx;
				y = 2 * x * y + cy;
				x = next;
			}
			inside += step == 100;
		}
	}
	printf("%ld\n", inside);
}

/* COUNT transforms of 4096 complex points: strided loads and stores, and the C library's sine and cosine once. */
static void fourier(long count)
{
	enum { N = 4096 };
	static double complex points[N], roots[N / 2];
	for (int i = 0; i < N / 2; i++)
		roots[i] = cexp(-2 * M_PI * I * i / N);
	for (int i = 0; i < N; i++)
		points[i] = next_random() % 1000 / 1000.0;
	while (count--) {
		for (int i = 1, j = 0; i < N; i++) {
			int bit = N >> 1;
			for (; j & bit; bit >>= 1)
				j ^= bit;
			j ^= bit;
			if (i < j) {
				double complex swap = points[i];
				points[i] = points[j];
				points[j] = swap;
			}
		}
		for (int half = 1; half < N; half *= 2) {
			for (int start = 0; start < N; start += 2 * half) {
				for (int k = 0; k < half; k++) {
					double complex root = roots[k * (N / 2 / half)];
					double complex upper = points[start + k], lower = points[start + k + half];
					double re = creal(root) * creal(lower) - cimag(root) * cimag(lower);
					double im = creal(root) * cimag(lower) + cimag(root) * creal(lower);
					points[start + k] = upper + (re + im * I);
					points[start + k + half] = upper - (re + im * I);
				}
			}
		}
		for (int i = 0; i < N; i++)
			points[i] *= 1.0 / 64;
	}
	printf("%.9f %.9f\n", creal(points[1]), cimag(points[N / 3]));
}

/* ---- Processes and system calls ------------------------------------------------------------------------------- */

static void wait_for(pid_t child)
{
	int status;
	if (waitpid(child, &status, 0) != child || status != 0)
		die("a child");
}

/* COUNT children that only exit. */
static void fork_exit(long count)
{
	for (long i = 0; i < count; i++) {
		pid_t child = fork();
		if (child < 0)
			die("fork");
		if (child == 0)
			_exit(0);
		wait_for(child);
	}
	printf("%ld\n", count);
}

/* COUNT runs of the dynamically linked /bin/true. */
static void fork_exec(long count)
{
	for (long i = 0; i < count; i++) {
		pid_t child = fork();
		if (child < 0)
			die("fork");
		if (child == 0) {
			execl("/bin/true", "true", (char *)NULL);
			_exit(127);
		}
		wait_for(child);
	}
	printf("%ld\n", count);
}

/* COUNT system calls that do next to nothing. */
static void getppid_calls(long count)
{
	long same = 0, parent = getppid();
	for (long i = 0; i < count; i++)
		same += syscall(SYS_getppid) == parent;
	printf("%ld\n", same);
}

/* COUNT rounds of stat, open, a read of one byte and close. */
static void file_calls(long count)
{
	struct stat about;
	char byte;
	for (long i = 0; i < count; i++) {
		int file;
		if (stat("/etc/passwd", &about) != 0 || (file = open("/etc/passwd", O_RDONLY)) < 0)
			die("/etc/passwd");
		if (read(file, &byte, 1) != 1)
			die("read");
		close(file);
	}
	printf("%c\n", byte);
}

/* ---- Memory --------------------------------------------------------------------------------------------------- */

/* COUNT times 4 MiB mapped, each page touched and all unmapped. */
static void page_faults(long count)
{
	const size_t size = 4 << 20;
	unsigned sum = 0;
	for (long i = 0; i < count; i++) {
		unsigned char *memory = need(mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
		madvise(memory, size, MADV_NOHUGEPAGE);
		for (size_t at = 0; at < size; at += PAGE)
			memory[at] = 1, sum += memory[at];
		munmap(memory, size);
	}
	printf("%u\n", sum);
}

/* COUNT rounds of mmap, two touched pages, mprotect and munmap: address spaces that change all the time. */
static void mappings(long count)
{
	unsigned sum = 0;
	for (long i = 0; i < count; i++) {
		unsigned char *memory = need(mmap(NULL, 4 * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
		memory[0] = memory[2 * PAGE] = 1;
		if (mprotect(memory, PAGE, PROT_READ) != 0)
			die("mprotect");
		sum += memory[0];
		munmap(memory, 4 * PAGE);
	}
	printf("%u\n", sum);
}

/* COUNT steps along a shuffled ring of 32 MiB: each load needs the one before it, and another page. */
static void chase(long count)
{
	const size_t cells = (32 << 20) / sizeof(uint32_t);
	uint32_t *ring = need(malloc(cells * sizeof *ring)), at = 0;
	for (size_t i = 0; i < cells; i++)
		ring[i] = i;
	for (size_t i = cells - 1; i > 0; i--) { /* Sattolo: one cycle through all cells. */
		size_t j = next_random() % i;
		uint32_t swap = ring[i];
		ring[i] = ring[j];
		ring[j] = swap;
	}
	while (count--)
		at = ring[at];
	printf("%u\n", at);
	free(ring);
}

/* ---- Context switches ----------------------------------------------------------------------------------------- */

/* COUNT times a byte to another process and back, by two pipes. */
static void ping_pong(long count)
{
	int there[2], back[2];
	char byte = 'x';
	if (pipe(there) != 0 || pipe(back) != 0)
		die("pipe");
	pid_t child = fork();
	if (child < 0)
		die("fork");
	if (child == 0) {
		close(there[1]);
		while (read(there[0], &byte, 1) == 1)
			if (write(back[1], &byte, 1) != 1)
				_exit(1);
		_exit(0);
	}
	for (long i = 0; i < count; i++)
		if (write(there[1], &byte, 1) != 1 || read(back[0], &byte, 1) != 1)
			die("pipe");
	close(there[1]);
	wait_for(child);
	printf("%c\n", byte);
}

/* COUNT MiB from one process to another, in 64 KiB writes. */
static void pipe_stream(long count)
{
	static char piece[65536];
	int way[2];
	if (pipe(way) != 0)
		die("pipe");
	pid_t child = fork();
	if (child < 0)
		die("fork");
	if (child == 0) {
		close(way[0]);
		for (long i = 0; i < count * 16; i++)
			for (size_t done = 0; done < sizeof piece;) {
				ssize_t some = write(way[1], piece + done, sizeof piece - done);
				if (some < 0)
					_exit(1);
				done += some;
			}
		_exit(0);
	}
	close(way[1]);
	long long total = 0;
	for (ssize_t some; (some = read(way[0], piece, sizeof piece)) > 0;)
		total += some;
	wait_for(child);
	printf("%lld\n", total);
}

/* ---- Files ---------------------------------------------------------------------------------------------------- */

/* COUNT times a cached file of the root disk read through, 4 KiB a call. */
static void file_read(long count)
{
	static unsigned char piece[4096];
	unsigned sum = 0;
	int file = open("/bench/data", O_RDONLY);
	if (file < 0)
		die("/bench/data");
	while (count--) {
		lseek(file, 0, SEEK_SET);
		for (ssize_t some; (some = read(file, piece, sizeof piece)) > 0;)
			sum += piece[0] + (unsigned)some;
	}
	printf("%u\n", sum);
}

/* COUNT files in memory made, written with 16 KiB, renamed, read and removed. */
static void file_tree(long count)
{
	static char piece[16384], name[64], other[64];
	long long total = 0;
	for (long i = 0; i < count; i++) {
		snprintf(name, sizeof name, "/tmp/file%ld", i % 100);
		snprintf(other, sizeof other, "/tmp/other%ld", i % 100);
		int file = open(name, O_RDWR | O_CREAT | O_TRUNC, 0644);
		if (file < 0 || write(file, piece, sizeof piece) != sizeof piece)
			die(name);
		close(file);
		if (rename(name, other) != 0 || (file = open(other, O_RDONLY)) < 0)
			die(other);
		total += read(file, piece, sizeof piece);
		close(file);
		unlink(other);
	}
	printf("%lld\n", total);
}

static const struct {
	const char *name;
	void (*run)(long count);
} kernels[] = {
	{ "qsort", quicksort },
	{ "sieve", sieve },
	{ "nbody", nbody },
	{ "matrix", matrix },
	{ "mandelbrot", mandelbrot },
	{ "fourier", fourier },
	{ "fork", fork_exit },
	{ "exec", fork_exec },
	{ "getppid", getppid_calls },
	{ "files", file_calls },
	{ "faults", page_faults },
	{ "mappings", mappings },
	{ "chase", chase },
	{ "ping-pong", ping_pong },
	{ "stream", pipe_stream },
	{ "file-read", file_read },
	{ "file-tree", file_tree },
};

int main(int argc, char **argv)
{
	long count = argc == 3 ? atol(argv[2]) : 0;
	for (size_t i = 0; count > 0 && i < sizeof kernels / sizeof *kernels; i++) {
		if (strcmp(argv[1], kernels[i].name) == 0) {
			kernels[i].run(count);
			return 0;
		}
	}
	fprintf(stderr, "usage: kernels NAME COUNT, where NAME is one of\n");
	for (size_t i = 0; i < sizeof kernels / sizeof *kernels; i++)
		fprintf(stderr, "  %s\n", kernels[i].name);
	return 2;
}
