/*
 * Stands in for libFuzzer: calls the fuzzer once for each file named, and for each file of each directory
 * named. Arguments that begin with '-' are libFuzzer's and are left out. An input that breaks something
 * ends the process; the last line says which one it was.
 */
#include "fuzz.h"

#include <dirent.h>
#include <limits.h>
#include <string.h>
#include <sys/stat.h>

#define INPUT_MAX (1u << 20)

static unsigned int count;

static void run_file(const char *path)
{
	FILE *file = fopen(path, "rb");
	uint8_t *data = malloc(INPUT_MAX);
	uint8_t *exact;
	size_t size;

	if (!file || !data) {
		perror(path);
		exit(EXIT_FAILURE);
	}
	size = fread(data, 1, INPUT_MAX, file);
	fclose(file);
	/* A block of just this size: reading beyond it is an error that a sanitizer sees. */
	exact = malloc(size ? size : 1);
	if (!exact)
		exit(EXIT_FAILURE);
	memcpy(exact, data, size);
	free(data);
	printf("%s\n", path);
	fflush(stdout);
	LLVMFuzzerTestOneInput(exact, size);
	free(exact);
	count++;
}

static void run_directory(const char *path)
{
	DIR *directory = opendir(path);
	struct dirent *entry;
	char name[PATH_MAX];

	if (!directory) {
		perror(path);
		exit(EXIT_FAILURE);
	}
	while ((entry = readdir(directory)) != NULL) {
		if (entry->d_name[0] == '.')
			continue;
		snprintf(name, sizeof(name), "%s/%s", path, entry->d_name);
		run_file(name);
	}
	closedir(directory);
}

int main(int argc, char **argv)
{
	struct stat st;

	for (int i = 1; i < argc; i++) {
		if (argv[i][0] == '-')
			continue;
		if (!stat(argv[i], &st) && S_ISDIR(st.st_mode))
			run_directory(argv[i]);
		else
			run_file(argv[i]);
	}
	printf("%u inputs\n", count);
	return count ? EXIT_SUCCESS : EXIT_FAILURE;
}
