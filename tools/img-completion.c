/*
 * ringdisk-img completion: a script for bash, made of the verb table. Formats are asked for at the time of the tab;
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
	for (size_t i = 0; tool_program.verbs[i]; i++) {
		printf("\t%s) options=\"$common", tool_program.verbs[i]->name);
		put_options(tool_program.verbs[i]->options);
		puts("\" ;;");
	}
	fputs("\tesac\n"
	      "\tif [[ $cur == -* ]]; then\n"
	      "\t\treply=$options\n"
	      "\telif [[ -z $verb ]]; then\n"
	      "\t\treply=\"",
	      stdout);
	for (size_t i = 0; tool_program.verbs[i]; i++)
		printf("%s%s", i ? " " : "", tool_program.verbs[i]->name);
	puts("\"\n"
	     "\telif [[ $verb == snapshot && $before == snapshot ]]; then\n"
	     "\t\treply=\"list create apply delete\"\n"
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
	if (strcmp(argv[0], "bash") != 0)
		return verbs_misused("completion: \"%s\" is not bash", argv[0]);
	put_bash();
	return 0;
}

const struct verb verb_completion = {
	.name = "completion",
	.arguments = "SHELL",
	.help = "print a script that completes the command line",
	.details = "SHELL is bash. Try: source <(ringdisk-img completion bash)\n",
	.min_arguments = 1,
	.max_arguments = 1,
	.run = run,
};
