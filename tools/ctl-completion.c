/*
 * ringdisk completion: a script for bash or zsh, made of the verb table, so that it knows every verb and option
 * that this program knows. Names of disks and keys of settings come from the daemon, at the time of the tab.
 */
#include "ctl.h"

#include <stdio.h>
#include <string.h>

/* What both shells share: a function that lists disks or settings, by the socket on the command line if any. */
static const char ask_daemon[] =
	"_ringdisk_ask()\n"
	"{\n"
	"\tlocal i socket=()\n"
	"\tfor ((i = 1; i < ${#words[@]}; i++)); do\n"
	"\t\tcase ${words[i]} in\n"
	"\t\t-s | --socket) socket=(--socket \"${words[i + 1]}\") ;;\n"
	"\t\t--socket=*) socket=(\"${words[i]}\") ;;\n"
	"\t\tesac\n"
	"\tdone\n"
	"\tcase $1 in\n"
	"\tdisks) ringdisk list --timeout 2 \"${socket[@]}\" 2>/dev/null |\n"
	"\t\tsed -n 's|^\\([0-9]\\{1,5\\}/[a-z0-9]*\\) .*|\\1|p' ;;\n"
	"\tkeys) ringdisk list --settings --timeout 2 \"${socket[@]}\" \"$2\" 2>/dev/null |\n"
	"\t\tsed -n 's|^[0-9]\\{1,5\\}/[a-z0-9]*  *\\([a-z-]*\\) .*|\\1=|p' ;;\n"
	"\tesac\n"
	"}\n\n";

static void put_options(const struct verb_option *options)
{
	for (; options && options->name; options++)
		printf(" --%s%s", options->name, options->type == OPTION_FLAG ? "" : "=");
}

static void put_verbs(void)
{
	for (size_t i = 0; ctl_program.verbs[i]; i++)
		printf("%s%s", i ? " " : "", ctl_program.verbs[i]->name);
}

/* The words that a verb takes instead of a disk, or NULL. */
static const char *words_of(const struct verb *verb)
{
	if (!strcmp(verb->name, "completion"))
		return "bash zsh";
	return NULL;
}

/* "VERB) options=... takes=disk;;" for each. */
static void put_cases(void)
{
	for (size_t i = 0; ctl_program.verbs[i]; i++) {
		const struct verb *verb = ctl_program.verbs[i];
		const char *words = words_of(verb);

		printf("\t%s)\n\t\toptions=\"$common", verb->name);
		put_options(verb->options);
		printf("\"\n\t\ttakes=%s\n", strstr(verb->arguments, "DISK") ? "disk" : "nothing");
		if (words)
			printf("\t\twords_of=\"%s\"\n", words);
		if (strstr(verb->arguments, "KEY="))
			puts("\t\tthen=keys");
		puts("\t\t;;");
	}
}

static void put_body(void)
{
	fputs("\tlocal common=\"--help", stdout);
	put_options(ctl_program.common);
	fputs("\"\n\tlocal verbs=\"", stdout);
	put_verbs();
	puts("\"\n\tlocal verb= disk= options=\"$common --version\" takes=nothing then= words_of= i\n"
	     "\tfor ((i = 1; i < cword; i++)); do\n"
	     "\t\tcase ${words[i]} in\n"
	     "\t\t-s | --socket | -t | --timeout) ((i++)) ;;\n"
	     "\t\t-*) ;;\n"
	     "\t\t*)\n"
	     "\t\t\tif [[ -z $verb ]]; then verb=${words[i]}; elif [[ -z $disk ]]; then disk=${words[i]}; fi\n"
	     "\t\t\t;;\n"
	     "\t\tesac\n"
	     "\tdone\n"
	     "\tcase $verb in");
	put_cases();
	puts("\tesac\n"
	     "\tif [[ $cur == -* ]]; then\n"
	     "\t\treply=\"$options\"\n"
	     "\telif [[ -z $verb ]]; then\n"
	     "\t\treply=\"$verbs\"\n"
	     "\telif [[ -n $words_of ]]; then\n"
	     "\t\treply=\"$words_of\"\n"
	     "\telif [[ $takes == disk && -z $disk ]]; then\n"
	     "\t\treply=$(_ringdisk_ask disks)\n"
	     "\telif [[ -n $then ]]; then\n"
	     "\t\treply=$(_ringdisk_ask \"$then\" \"$disk\")\n"
	     "\tfi");
}

static void put_bash(void)
{
	puts("# bash completion for ringdisk; made by: ringdisk completion bash\n");
	fputs(ask_daemon, stdout);
	puts("_ringdisk()\n"
	     "{\n"
	     "\tlocal cur=${COMP_WORDS[COMP_CWORD]} words=(\"${COMP_WORDS[@]}\") cword=$COMP_CWORD reply=");
	put_body();
	puts("\tmapfile -t COMPREPLY < <(compgen -W \"$reply\" -- \"$cur\")\n"
	     "\t[[ ${#COMPREPLY[@]} -gt 0 || -z $verb ]] || mapfile -t COMPREPLY < <(compgen -f -- \"$cur\")\n"
	     "\t[[ ${COMPREPLY[0]-} != *= ]] || compopt -o nospace 2>/dev/null\n"
	     "}\n\n"
	     "complete -o filenames -F _ringdisk ringdisk");
}

static void put_zsh(void)
{
	puts("#compdef ringdisk\n"
	     "# zsh completion for ringdisk; made by: ringdisk completion zsh\n");
	fputs(ask_daemon, stdout);
	puts("_ringdisk()\n"
	     "{\n"
	     "\tlocal cur=${words[CURRENT]} cword=$((CURRENT - 1)) reply=\n"
	     "\tlocal -a flat=(\"${words[@]}\")\n"
	     "\temulate -L zsh\n"
	     "\tsetopt ksh_arrays\n"
	     "\tlocal -a words=(\"${flat[@]}\")");
	put_body();
	puts("\tunsetopt ksh_arrays\n"
	     "\tlocal -a all=(${=reply})\n"
	     "\tif (( $#all )); then\n"
	     "\t\tlocal -a open=(${(M)all:#*=}) closed=(${all:#*=})\n"
	     "\t\tcompadd -a closed\n"
	     "\t\tcompadd -S '' -a open\n"
	     "\telse\n"
	     "\t\t_files\n"
	     "\tfi\n"
	     "}\n\n"
	     "(( $+functions[compdef] )) && compdef _ringdisk ringdisk");
}

static int run(int argc, char **argv)
{
	(void)argc;
	if (!strcmp(argv[0], "bash"))
		put_bash();
	else if (!strcmp(argv[0], "zsh"))
		put_zsh();
	else
		return verbs_misused("completion: \"%s\" is neither bash nor zsh", argv[0]);
	return EXIT_DONE;
}

const struct verb ctl_completion = {
	.name = "completion",
	.arguments = "SHELL",
	.help = "print a script that completes ringdisk's command line",
	.details = "SHELL is bash or zsh. Disks and settings are completed by asking the daemon.\n"
		   "Try: source <(ringdisk completion bash)\n",
	.min_arguments = 1,
	.max_arguments = 1,
	.run = run,
};
