# All that node-gyp reads of Node's headers for a `none` target. package.json's config.node_gyp_nodedir points here, so that
# `npx node-gyp rebuild` downloads nothing: the real build takes its headers from the node-api-headers package.
{}
