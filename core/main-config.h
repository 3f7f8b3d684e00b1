/*
 * main-config.h - what is in force of the configuration, told to who asks
 */
#ifndef RD_MAIN_CONFIG_H
#define RD_MAIN_CONFIG_H

#include "config.h"

struct json_t;

/* This is in force now, or, called again, as far as a reload brings it into force.  The main thread. */
void main_config_tell(const struct config *config);
void main_config_end(void);
/* {"options": [{"name", "value", "from"[, "restart"]}], "settings": [{"section", "name", "value", "from"}]}: the
 * caller's.  Any thread. */
struct json_t *main_config_json(void);

#endif
