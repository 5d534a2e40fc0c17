# The Node addon: <repository>/build/Release/stepward.node, beside a link `libtorch` that its RUNPATH goes through.

set(STEPWARD_ADDON_DIRECTORY ${CMAKE_CURRENT_SOURCE_DIR}/../build/Release CACHE PATH "where stepward.node is written")
get_filename_component(STEPWARD_ADDON_DIRECTORY ${STEPWARD_ADDON_DIRECTORY} ABSOLUTE)

add_library(stepward_addon SHARED ${addon_sources})
set_target_properties(stepward_addon PROPERTIES
  OUTPUT_NAME stepward
  PREFIX ""
  SUFFIX .node
  LIBRARY_OUTPUT_DIRECTORY ${STEPWARD_ADDON_DIRECTORY}
  CXX_VISIBILITY_PRESET hidden
  VISIBILITY_INLINES_HIDDEN ON
  BUILD_WITH_INSTALL_RPATH ON
  INSTALL_RPATH "$ORIGIN/libtorch/lib;$ORIGIN")
target_include_directories(stepward_addon SYSTEM PRIVATE ${CMAKE_JS_INC})
target_compile_definitions(stepward_addon PRIVATE NAPI_VERSION=9 STEPWARD_VERSION="${STEPWARD_VERSION}")
target_link_libraries(stepward_addon PRIVATE stepward_core stepward_options)
# A wrong libtorch must fail when the addon is loaded, as an error Node can catch, not at the first call.
target_link_options(stepward_addon PRIVATE -Wl,-z,now)

file(MAKE_DIRECTORY ${STEPWARD_ADDON_DIRECTORY})
file(CREATE_LINK ${TORCH_ROOT} ${STEPWARD_ADDON_DIRECTORY}/libtorch SYMBOLIC)
