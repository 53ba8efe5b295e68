# auxcore_exports(TARGET MAP): a shared library that exports what the version script names, and is made to be shipped: it carries its own
# libstdc++, and has no undefined symbol that no library of its own resolves. libgcc stays shared: a static one wants _dl_find_object of
# glibc 2.35. Sanitizers bring symbols of their own, which come with the program.
function(auxcore_exports target map)
  target_link_options(${target} PRIVATE -Wl,--version-script=${map})
  set_target_properties(${target} PROPERTIES LINK_DEPENDS ${map})
  if(NOT AUXCORE_SANITIZE)
    target_link_options(${target} PRIVATE -static-libstdc++ -Wl,--gc-sections -Wl,-z,defs)
  endif()
endfunction()
