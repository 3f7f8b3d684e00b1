/*
 * ringdisk-img completion: a script for bash or zsh, made of the verb table. Formats are asked for at the time of the tab;
 * behind the colon a path is completed as any other.
 */
#include <stdio.h>
#include <string.h>

#include "img.h"

static void put_options(const struct verb_option *options)
{
	for (; options && options->name; options++)
		printf(" --%s%s", options->name, options->type == OPTION_FLAG ? "" : "=");
}

static void put_cases(void)
{
	for (size_t i = 0; tool_program.verbs[i]; i++) {
		printf("\t%s) options=\"$common", tool_program.verbs[i]->name);
		put_options(tool_program.verbs[i]->options);
		puts("\" ;;");
	}
}

static void put_verbs(void)
{
	for (size_t i = 0; tool_program.verbs[i]; i++)
		printf("%s%s", i ? " " : "", tool_program.verbs[i]->name);
}

static void put_bash(void)
{
	puts("# bash completion for ringdisk-img; made by: ringdisk-img completion bash\n\n"
	     "_ringdisk_img()\n"
	     "{\n"
	     "\tlocal cur=${COMP_WORDS[COMP_CWORD]} before=${COMP_WORDS[COMP_CWORD - 1]} verb= word reply=");
	fputs("\tlocal common=\"--help", stdout);
	put_options(tool_program.common);
	puts("\"\n\tlocal options=\"$common --version\"\n"
	     "\tfor word in \"${COMP_WORDS[@]:1:COMP_CWORD - 1}\"; do\n"
	     "\t\t[[ $word == -* ]] || { verb=$word; break; }\n"
	     "\tdone\n"
	     "\tcase $verb in");
	put_cases();
	fputs("\tesac\n"
	      "\tif [[ $cur == -* ]]; then\n"
	      "\t\treply=$options\n"
	      "\telif [[ -z $verb ]]; then\n"
	      "\t\treply=\"",
	      stdout);
	put_verbs();
	puts("\"\n"
	     "\telif [[ $verb == snapshot && $before == snapshot ]]; then\n"
	     "\t\treply=\"list create apply delete\"\n"
	     "\telif [[ $verb == completion ]]; then\n"
	     "\t\treply=\"bash zsh\"\n"
	     "\telif [[ $before != [:=] && $cur != [:=] && $cur != */* ]]; then\n"
	     "\t\treply=$(ringdisk-img completion formats 2>/dev/null)\n"
	     "\tfi\n"
	     "\t[[ $cur != [:=] ]] || cur=\n"
	     "\tmapfile -t COMPREPLY < <(compgen -W \"$reply\" -- \"$cur\")\n"
	     "\t[[ ${#COMPREPLY[@]} -gt 0 ]] || mapfile -t COMPREPLY < <(compgen -f -- \"$cur\")\n"
	     "\t[[ ${COMPREPLY[0]-} != *[=:] ]] || compopt -o nospace 2>/dev/null\n"
	     "}\n\n"
	     "complete -o filenames -F _ringdisk_img ringdisk-img");
}

/* What is to be typed here is one word, FORMAT:PATH: formats first, and behind the colon files. */
static void put_zsh(void)
{
	puts("#compdef ringdisk-img\n"
	     "# zsh completion for ringdisk-img; made by: ringdisk-img completion zsh\n\n"
	     "_ringdisk_img()\n"
	     "{\n"
	     "\temulate -L zsh\n"
	     "\tlocal cur=${words[CURRENT]} verb= word reply=");
	fputs("\tlocal common=\"--help", stdout);
	put_options(tool_program.common);
	puts("\"\n\tlocal options=\"$common --version\"\n"
	     "\tfor word in \"${(@)words[2,CURRENT-1]}\"; do\n"
	     "\t\t[[ $word == -* ]] || { verb=$word; break }\n"
	     "\tdone\n"
	     "\tcase $verb in");
	put_cases();
	fputs("\tesac\n"
	      "\tif [[ $cur == -* ]]; then\n"
	      "\t\treply=$options\n"
	      "\telif [[ -z $verb ]]; then\n"
	      "\t\treply=\"",
	      stdout);
	put_verbs();
	puts("\"\n"
	     "\telif [[ $verb == snapshot && ${words[CURRENT-1]} == snapshot ]]; then\n"
	     "\t\treply=\"list create apply delete\"\n"
	     "\telif [[ $verb == completion ]]; then\n"
	     "\t\treply=\"bash zsh\"\n"
	     "\telif [[ $cur == *:* ]]; then\n"
	     "\t\tcompset -P '*:'\n"
	     "\telif [[ $cur != */* ]]; then\n"
	     "\t\treply=$(ringdisk-img completion formats 2>/dev/null)\n"
	     "\tfi\n"
	     "\tlocal -a all=(${=reply})\n"
	     "\tif (( $#all )); then\n"
	     "\t\tlocal -a open=(${(M)all:#*[=:]}) closed=(${all:#*[=:]})\n"
	     "\t\tcompadd -a closed\n"
	     "\t\tcompadd -S '' -a open\n"
	     "\telse\n"
	     "\t\t_files\n"
	     "\tfi\n"
	     "}\n\n"
	     "(( $+functions[compdef] )) && compdef _ringdisk_img ringdisk-img");
}

static int put_formats(void)
{
	const struct drv_entry *entry;
	int status = tool_load_drivers();

	for (unsigned i = 0; !status && (entry = drv_at(i)); i++)
		if (entry->driver)
			printf("%s:\n", entry->driver->name);
	return status;
}

static int run(int argc, char **argv)
{
	(void)argc;
	if (!strcmp(argv[0], "formats"))
		return put_formats();
	if (!strcmp(argv[0], "bash"))
		put_bash();
	else if (!strcmp(argv[0], "zsh"))
		put_zsh();
	else
		return verbs_misused("completion: \"%s\" is neither bash nor zsh", argv[0]);
	return 0;
}

const struct verb verb_completion = {
	.name = "completion",
	.arguments = "SHELL",
	.help = "print a script that completes the command line",
	.details = "SHELL is bash or zsh. Try: source <(ringdisk-img completion bash)\n",
	.min_arguments = 1,
	.max_arguments = 1,
	.run = run,
};
